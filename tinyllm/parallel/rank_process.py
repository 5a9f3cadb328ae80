"""What runs in each process but the first: it loads its part of the model, and runs the steps that it is told of."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from tinyllm.errors import ModelGoneError, TinyllmError
from tinyllm.models.bound_model import ModelChoice, bind_model
from tinyllm.parallel.cores import keep_to
from tinyllm.parallel.follow import follow
from tinyllm.parallel.shared_memory import SharedMemoryGroup
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
    with Connection(connection_number) as connection, suppress(EOFError, ConnectionError, ModelGoneError):
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
        raise ModelGoneError("tensor_parallel: the first process ended")
