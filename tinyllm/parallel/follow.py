"""What a process does that another tells of each step: it keeps pages of its own, and runs the same on them."""

from __future__ import annotations

from typing import Any, Protocol

from tinyllm.graph.program import Pages, Program


class Messages(Protocol):
    """Where messages of `ParallelProgram` come from."""

    def recv(self) -> Any:
        """The next one; raises where whoever sends them has hung up."""


def follow(connection: Messages, program: Program) -> None:
    """Do what each message says, until `recv` raises."""
    pages: dict[int, Pages] = {0: {}}
    while True:
        dropped, what, number, *arguments = connection.recv()
        for gone in dropped:
            pages.pop(gone, None)
        if what == "step":
            _, pages[number] = program(arguments[0], pages[number])
        elif what == "grow":
            pages[number] = program.grow(pages[number], *arguments)
        else:
            pages[number] = program.allocate(*arguments)
