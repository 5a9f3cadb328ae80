"""What runs in each process but the first: it loads its part of the model, and runs the steps that it is told of."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from tinyllm.errors import TinyllmError
from tinyllm.graph.program import Pages, Program
from tinyllm.models.bound_model import ModelChoice, bind_model
from tinyllm.parallel.cores import keep_to
from tinyllm.parallel.shared_memory import RanksEndedError, SharedMemoryGroup
from tinyllm.registry.registry import default_registry


@dataclass(frozen=True)
class Order:
    """What a process is started with."""

    choice: ModelChoice
    rank: int
    ranks: int
    patience: float


def main(connection_number: int, memory: int) -> None:
    """Run a rank until the first process hangs up.

    Args:
        connection_number: a descriptor of the connection to the first process, which sends an `Order`, is sent an error
            or "" when the part is loaded, and then sends messages as `ParallelProgram` does. memory: a descriptor as
            `shared_file` gives it.
    """
    parent = os.getppid()
    with Connection(connection_number) as connection, suppress(EOFError, ConnectionError, RanksEndedError):
        order: Order = connection.recv()
        keep_to(order.rank, order.ranks)
        group = SharedMemoryGroup(order.rank, order.ranks, memory, partial(_check_alive, parent), order.patience)
        try:
            program = bind_model(order.choice, default_registry(), group).program
        except TinyllmError as error:
            connection.send(str(error))
            return
        connection.send("")
        try:
            follow(connection.recv, program)
        finally:
            group.give_up()


def _check_alive(parent: int) -> None:
    if os.getppid() != parent:
        raise RanksEndedError("tensor_parallel: the first process ended")


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


def command(connection: int, memory: int) -> list[Any]:
    """The command line of a rank: not by multiprocessing, which would run the program's main module again. In the end
    nothing is left to be done, and no library is taken down, which can take longer than the first process waits."""
    code = f"import os, sys; sys.path[:] = {sys.path!r}; from tinyllm.parallel.rank_process import main; "
    return [sys.executable, "-c", f"{code}main({connection}, {memory}); os._exit(0)"]
