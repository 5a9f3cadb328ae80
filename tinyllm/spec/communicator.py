"""How the processes that share one model out speak with one another in the midst of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


class Communicator(ABC):
    """Some processes that run the same calls in the same order.

    rank: the number of this one, from 0 on. ranks: how many there are.
    """

    rank: int
    ranks: int

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

    def sum(self, x: Any) -> Any:
        """x, added up as many times as there are ranks."""
        total = x
        for _ in range(1, self.ranks):
            total = total + x
        return total
