"""The processes that share a model out with this one, which is the first of them."""

from __future__ import annotations

import os
import subprocess
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any

from tinyllm.errors import ModelGoneError, TinyllmError, invalid
from tinyllm.graph.program import Program
from tinyllm.models.bound_model import BoundModel, ModelChoice, bind_model
from tinyllm.parallel.cores import kept_to
from tinyllm.parallel.launched import bind_first, follow_first, join
from tinyllm.parallel.processes import PATIENCE, end, how_it_ended, start
from tinyllm.parallel.program import ParallelProgram
from tinyllm.parallel.rank_process import Order
from tinyllm.parallel.shared_memory import SharedMemoryGroup, shared_file
from tinyllm.parallel.torchrun import place_of
from tinyllm.registry.registry import Registry


class Ranks:
    """Starts all processes but the first, which is this one. They end with it, whatever it dies of; `close` ends them.

    Args:
        patience: seconds that they wait for one another within a step.
    """

    def __init__(self, choice: ModelChoice, ranks: int, patience: float = PATIENCE) -> None:
        self.ranks, self._owner = ranks, os.getpid()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._closed = weakref.finalize(self, _end, self._processes, self._connections)
        memory = shared_file(ranks)
        try:
            for rank in range(1, ranks):
                self._start(Order(choice, rank, ranks, patience), memory)
            self.group = SharedMemoryGroup(0, ranks, memory, partial(_check_alive, self._processes), patience)
        finally:
            os.close(memory)

    def _start(self, order: Order, memory: int) -> None:
        ours, theirs = Pipe()
        with theirs:
            process = start(
                "tinyllm.parallel.rank_process", theirs.fileno(), memory, pass_fds=[theirs.fileno(), memory]
            )
        self._processes.append(process)
        self._connections.append(ours)
        ours.send(order)

    def join(self, own: Program) -> ParallelProgram:
        """The program of the whole model, when all processes have loaded their parts.

        Raises:
            TinyllmError: one could not.
        """
        for rank, connection in enumerate(self._connections, 1):
            try:
                problem = connection.recv()
            except (EOFError, ConnectionError):
                raise _ended(self._processes, rank) from None
            if problem:
                raise TinyllmError(f"process {rank} of {self.ranks}: {problem}")
        return ParallelProgram(own, self.tell, self._broken_off, self.check)

    def tell(self, message: tuple[Any, ...]) -> None:
        """Send a message to all other processes. Raises `ModelGoneError` where one is gone."""
        self.check()
        try:
            for connection in self._connections:
                connection.send(message)
        except OSError:
            _check_alive(self._processes)
            raise

    def check(self) -> None:
        """Raises `ModelGoneError` where one of the other processes is gone."""
        if not self._closed.alive or self._owner != os.getpid():
            raise ModelGoneError("tensor_parallel: the other processes were ended: load the model again")
        _check_alive(self._processes)

    def close(self) -> None:
        """End the other processes."""
        self._closed()

    def _broken_off(self) -> None:
        self.group.give_up()
        self.close()


def _check_alive(processes: list[subprocess.Popen[bytes]]) -> None:
    for rank, process in enumerate(processes, 1):
        if process.poll() is not None:
            raise _ended(processes, rank)


def _ended(processes: list[subprocess.Popen[bytes]], rank: int) -> ModelGoneError:
    how = how_it_ended(processes[rank - 1])
    return ModelGoneError(f"tensor_parallel: process {rank} of {len(processes) + 1} {how}: load the model again")


def bind_shared_out(
    choice: ModelChoice,
    registry: Registry,
    ranks: int,
    progress: Callable[[int, int], None] | None = None,
    patience: float = PATIENCE,
) -> BoundModel:
    """A model that several processes have together, of which this is the first: `torchrun` started them all, or the
    others are started here. patience: as `Ranks` takes it.

    In a process that `torchrun` started as another than the first, this follows the first one to its end, and then
    raises `SystemExit`.

    Raises: as `bind_model` does, and `TinyllmError` where another process could not load its part.
    """
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise invalid("load", "tensor_parallel", "a number of processes of at least 1", repr(ranks))
    if (place := place_of(os.environ, "tensor_parallel", ranks) if ranks > 1 else None) is not None:
        network = join(place, registry, patience)
        if place.rank:
            follow_first(network, registry, patience)
            raise SystemExit(0)
        return bind_first(network, choice, registry, progress, patience)
    others = Ranks(choice, ranks, patience)
    try:
        with kept_to(0, ranks):
            bound = bind_model(choice, registry, others.group, progress)
        return replace(bound, program=others.join(bound.program))
    except BaseException:
        others.close()
        raise


def _end(processes: list[subprocess.Popen[bytes]], connections: list[Connection]) -> None:
    """Hang up; a process that does not end by that is killed."""
    for connection in connections:
        connection.close()
    end(processes)
