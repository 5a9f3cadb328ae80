"""How the processes that share one model out speak with one another in the midst of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MeetingPlace:
    """Memory in which processes of one machine add up arrays, for kernels that do it by themselves.

    At `address` lie lines of `line` bytes that begin with a counter of 64 bits: the first says whether somebody gave
    up, those of each rank how often it came to a meeting. Then there are `part` bytes for the numbers of each rank at
    even meetings, and as many at odd ones. An address of 0: there is no memory, and all ranks hold what this one holds.

    check: called now and then by who waits, with the seconds that it has waited, and where somebody gave up; raises
    where the wait is in vain.
    """

    address: int
    line: int
    part: int
    check: Callable[[float], None]


class Communicator(ABC):
    """Some processes that run the same calls in the same order.

    rank: the number of this one, from 0 on. ranks: how many there are. place: where they meet in memory, if they do.
    """

    rank: int
    ranks: int
    place: MeetingPlace | None = None

    @abstractmethod
    def sum(self, x: Any) -> Any:
        """The sum of the arrays that all ranks call this with, of one shape and dtype: the same bits on every rank.

        Takes and gives numpy arrays, and leaves x as it is. Raises `TinyllmError` where a rank does not answer.
        """


class Network(Communicator):
    """Processes that somebody else started, perhaps on several machines: the first one also tells the others what to
    do, between steps. Every method raises `ModelGoneError` where another process is gone, as far as that is seen."""

    @abstractmethod
    def tell(self, message: bytes) -> None:
        """Send a message to all others. For the first process."""

    @abstractmethod
    def told(self) -> bytes:
        """The first process's next message, however long that takes. For the others."""

    @abstractmethod
    def gather(self, message: bytes) -> list[bytes]:
        """What all say at this point, in the order of the ranks, however long that takes. For all of them."""

    @abstractmethod
    def close(self) -> None:
        """Hang up, so that all others fail that wait, now or later."""


@dataclass(frozen=True)
class Alike(Communicator):
    """The only process, as if there were others, all of which hold what it holds: what a kernel is tried with."""

    ranks: int
    rank: int = 0
    place = MeetingPlace(0, 0, 0, lambda seconds: None)

    def sum(self, x: Any) -> Any:
        """x, added up as many times as there are ranks."""
        total = x
        for _ in range(1, self.ranks):
            total = total + x
        return total
