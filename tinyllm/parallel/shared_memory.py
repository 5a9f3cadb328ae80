"""Sums over processes through memory that they share: each writes its part, and all read all parts."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from tinyllm.errors import ModelGoneError
from tinyllm.parallel.processes import PATIENCE
from tinyllm.spec.communicator import Communicator, MeetingPlace

PART = 1 << 20
"""Bytes of a part that are summed at a time."""
LINE = 64
"""Bytes between two counters, so that no two are in one cache line."""
SPINS, YIELDS = 500, 2000
"""How often a process that waits looks before it lets others run, and before it sleeps for a moment."""
NAP = 1e-4


def shared_file(ranks: int) -> int:
    """A descriptor of memory that `SharedMemoryGroup` works in. It has no name, and is gone with the last process."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tinyllm")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _size(ranks))
    return descriptor


def _size(ranks: int) -> int:
    return (ranks + 1) * LINE + 2 * ranks * PART


class SharedMemoryGroup(Communicator):
    """Processes of one machine that share memory.

    A sum takes one meeting: its parts lie in one of two places by turns, so that nobody writes where another may still
    read. A process that waits looks at the counters, first without a pause and then with ever longer ones.

    Args:
        descriptor: as `shared_file` gives it. check: raises where another process is gone; called while waiting.
    """

    def __init__(
        self, rank: int, ranks: int, descriptor: int, check: Callable[[], None], patience: float = PATIENCE
    ) -> None:
        self.rank, self.ranks = rank, ranks
        self._check, self._patience = check, patience
        self._memory = memoryview(mmap.mmap(descriptor, _size(ranks)))
        self._counters = self._memory[: (ranks + 1) * LINE].cast("q")
        self._parts = np.frombuffer(self._memory[(ranks + 1) * LINE :], np.uint8).reshape(2, ranks, PART)
        self._places = [(other + 1) * LINE // 8 for other in range(ranks)]
        self._fence = threading.Lock()
        address = np.frombuffer(self._memory, np.uint8).ctypes.data
        self.place = MeetingPlace(address, LINE, PART, self._ask)

    def sum(self, x: Any) -> Any:
        """As `Communicator.sum`: parts are added in the order of the ranks."""
        flat = np.ascontiguousarray(x).reshape(-1)
        total = np.empty_like(flat)
        step = PART // flat.itemsize
        for start in range(0, max(1, flat.size), step):
            part = flat[start : start + step]
            all_parts = self._parts[self._next % 2, :, : part.nbytes].view(flat.dtype)
            all_parts[self.rank] = part
            self._meet(self._next)
            found = total[start : start + step]
            np.add(all_parts[0], all_parts[1], out=found)
            for other in range(2, self.ranks):
                found += all_parts[other]
        return total.reshape(np.shape(x))

    def give_up(self) -> None:
        """Let all others fail that wait, now or later."""
        self._counters[0] = 1

    @property
    def _next(self) -> int:
        """The number of this rank's next meeting. It is counted in the memory, as kernels that know the place meet
        without this object."""
        return int(self._counters[self._places[self.rank]]) + 1

    def _meet(self, meeting: int) -> None:
        """Return when all processes are here, and what they wrote before can be read."""
        self._order()
        self._counters[self._places[self.rank]] = meeting
        began = 0.0
        for tries in count():
            if all(self._counters[place] >= meeting for place in self._places):
                break
            if tries < SPINS:
                continue
            if self._counters[0]:
                self._ask(0.0)
            if tries < YIELDS:
                time.sleep(0)
                continue
            began = began or time.monotonic()
            if tries % 100 == 0:
                self._ask(time.monotonic() - began)
            time.sleep(NAP)
        self._order()

    def _ask(self, seconds: float) -> None:
        """As `MeetingPlace.check`."""
        self._check()
        if self._counters[0]:
            raise ModelGoneError("tensor_parallel: another process failed in this step")
        if seconds > self._patience:
            self.give_up()
            raise ModelGoneError(f"tensor_parallel: another process does not answer for {self._patience:g} s")

    def _order(self) -> None:
        """Memory is read and written on either side of this, and not across it: on processors that reorder, too."""
        for _ in range(2):
            with self._fence:
                pass
