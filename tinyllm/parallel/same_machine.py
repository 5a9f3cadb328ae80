"""Memory for processes that a launcher started, where it started all of them on one machine."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from functools import partial
from mmap import mmap
from pathlib import Path

from tinyllm.errors import ModelGoneError
from tinyllm.parallel.shared_memory import SharedMemoryGroup, shared_file
from tinyllm.spec.communicator import Communicator, Network

PROCESSES = Path("/proc")
TOKEN = 16
"""Bytes by which memory is known: another machine, or container, may have another file at the same path."""


def group_of(network: Network, patience: float) -> Communicator:
    """What the processes of a network add up by, which all of them ask at the same time: memory, where every one can
    open that of the first, and otherwise the network."""
    first = network.rank == 0
    memory, token = (shared_file(network.ranks), os.urandom(TOKEN)) if first else (None, b"")
    try:
        if memory is not None:
            os.pwrite(memory, token, 0)
        said = network.gather(f"{os.getpid()} {'' if memory is None else memory}".encode() + b" " + token)
        pids = [int(message.split(b" ", 1)[0]) for message in said]
        if memory is None:
            _, number, token = said[0].split(b" ", 2)
            memory = _opened(pids[0], int(number), token)
        if not all(network.gather(b"" if memory is None else b"open")) or memory is None:
            return network
        if first:
            os.pwrite(memory, bytes(TOKEN), 0)
        network.gather(b"")
        return SharedMemoryGroup(network.rank, network.ranks, memory, partial(_check_alive, pids), patience)
    finally:
        if memory is not None:
            os.close(memory)


def _opened(pid: int, number: int, token: bytes) -> int | None:
    """The memory that another process has as a file of that number; None where it is not to be had."""
    with suppress(OSError, ValueError):
        # what another machine has at that path may be anything, and a pipe would be waited for
        memory = os.open(PROCESSES / str(pid) / "fd" / str(number), os.O_RDWR | os.O_NONBLOCK)
        known = False
        try:
            with closing(mmap(memory, TOKEN)) as begin:
                known = begin[:] == token
        finally:
            if not known:
                os.close(memory)
        return memory if known else None
    return None


def _check_alive(pids: list[int]) -> None:
    for rank, pid in enumerate(pids):
        if not _lives(pid):
            raise ModelGoneError(f"tensor_parallel: process {rank} of {len(pids)} ended: all have to be started again")


def _lives(pid: int) -> bool:
    """Whether a process runs; one that ended may still be listed, for whoever started it."""
    try:
        state = (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"
