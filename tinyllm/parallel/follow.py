"""What a process does that another tells of each step: it keeps pages of its own, and runs the same on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyllm.graph.program import Pages, Program


def follow(receive: Callable[[], Any], program: Program) -> None:
    """Do what the messages of a `ParallelProgram` say, until `receive` raises."""
    pages: dict[int, Pages] = {0: {}}
    while True:
        dropped, what, number, *arguments = receive()
        for gone in dropped:
            pages.pop(gone, None)
        if what == "step":
            _, pages[number] = program(arguments[0], pages[number])
        elif what == "grow":
            pages[number] = program.grow(pages[number], *arguments)
        else:
            pages[number] = program.allocate(*arguments)
