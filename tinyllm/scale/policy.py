"""Which replica a request goes to. Plain Python over numbers that replicas tell: no network and no clock, so that the
router and the simulator choose alike, and the same inputs lead to the same choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from tinyllm.engine.page_pool import Key
from tinyllm.errors import invalid
from tinyllm.scale.prefix_memory import PrefixMemory
from tinyllm.scale.settings import POLICIES, REMEMBERED, SLACK

_NEVER = np.iinfo(np.int64).max


class Fleet:
    """What is known of replicas 0 to `count - 1`.

    healthy `[N]` bool: whether a replica takes requests. in_flight `[N]` int64: requests that were sent to it from here
    and are not done. told `[N]` int64: requests that run or wait there, as it said last; others may send it some, too.
    pages_held `[N]` float64: the share of its pages that replies hold, as it said last.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.healthy = np.zeros(count, bool)
        self.in_flight = np.zeros(count, np.int64)
        self.told = np.zeros(count, np.int64)
        self.pages_held = np.zeros(count, np.float64)


class Choice(NamedTuple):
    """A replica, and how many keys of the request it probably has."""

    replica: int
    warm: int = 0


class Policy(ABC):
    """Chooses replicas."""

    def __init__(self) -> None:
        self._last = -1  # the one chosen last

    def choose(self, fleet: Fleet, keys: Sequence[Key], without: Collection[int] = ()) -> Choice | None:
        """A healthy replica for a request; None: there is none.

        Args:
            keys: of the request's first pages, or blocks of text: see `page_keys`.
            without: replicas that are out of the question, as they have failed this request.
        """
        usable = fleet.healthy
        if without:
            usable = usable.copy()
            usable[list(without)] = False
        if not np.count_nonzero(usable):
            return None
        choice = self._choose(fleet, keys, usable)
        self._last = choice.replica
        return choice

    def sent(self, replica: int, keys: Sequence[Key]) -> None:  # noqa: B027  most remember nothing
        """A request went to a replica, which has its prefix from now on."""

    def forget(self, replica: int) -> None:  # noqa: B027
        """A replica was started anew, and has no prefixes."""

    @abstractmethod
    def _choose(self, fleet: Fleet, keys: Sequence[Key], usable: np.ndarray) -> Choice:
        """The choice among the usable replicas, of which there is at least one."""

    def _next(self, places: np.ndarray) -> int:
        """Of places in rising order the first after the one chosen last."""
        return int(places[places.searchsorted(self._last, side="right") % places.size])


class RoundRobin(Policy):
    """One after the other."""

    def _choose(self, fleet: Fleet, keys: Sequence[Key], usable: np.ndarray) -> Choice:
        return Choice(self._next(np.flatnonzero(usable)))


class LeastLoaded(Policy):
    """The one with the fewest requests; among equals the one whose replies hold the fewest pages, then the next."""

    def _choose(self, fleet: Fleet, keys: Sequence[Key], usable: np.ndarray) -> Choice:
        return Choice(self._least(fleet, self._loads(fleet, usable)))

    def _loads(self, fleet: Fleet, usable: np.ndarray) -> np.ndarray:
        """Requests at each replica; those that are not usable have more than any."""
        return np.where(usable, np.maximum(fleet.in_flight, fleet.told), _NEVER)

    def _least(self, fleet: Fleet, loads: np.ndarray) -> int:
        places = (loads == loads.min()).nonzero()[0]
        if len(places) > 1:
            held = fleet.pages_held[places]
            places = places[held == held.min()]
        return self._next(places)


class Warm(LeastLoaded):
    """Load first, then what is warm: among replicas that have at most `slack` requests more than the least loaded one,
    one of those that were sent most of the request's prefix lately; the least loaded one where nobody has any.

    All replicas are looked at, and not two drawn by chance: a prefix is warm in few places, and two would mostly miss
    them. For 1,000 replicas that costs some microseconds.

    Args:
        slack: the higher, the more hits, and the more uneven the load.
        remembered: keys that are remembered of each replica.
    """

    def __init__(self, slack: int = SLACK, remembered: int = REMEMBERED) -> None:
        super().__init__()
        self.slack, self.memory = slack, PrefixMemory(remembered)

    def sent(self, replica: int, keys: Sequence[Key]) -> None:
        """A request went to a replica, which has its prefix from now on."""
        self.memory.add(replica, keys)

    def forget(self, replica: int) -> None:
        """A replica was started anew, and has no prefixes."""
        self.memory.forget(replica)

    def _choose(self, fleet: Fleet, keys: Sequence[Key], usable: np.ndarray) -> Choice:
        loads = self._loads(fleet, usable)
        least = self._least(fleet, loads)
        most, seen = loads[least] + self.slack, 0
        for depth in range(self.memory.depth(keys), 0, -1):
            holders = self.memory.holders(keys[depth - 1])
            if len(holders) == seen:  # the same as those of the key after it
                continue
            seen = len(holders)
            if least in holders:
                return Choice(least, depth)
            places = np.fromiter(holders, np.int64, seen)
            held = loads[places]
            lowest = held.min()
            if lowest <= most:
                return Choice(int(places[held == lowest].min()), depth)
        return Choice(least)


def make_policy(name: str, slack: int = SLACK, remembered: int = REMEMBERED) -> Policy:
    """A policy by its name. Raises `InvalidInputError` where there is none of that name."""
    if name == "warm":
        return Warm(slack, remembered)
    if name == "least-loaded":
        return LeastLoaded()
    if name == "round-robin":
        return RoundRobin()
    raise invalid("route", "policy", f"one of {', '.join(POLICIES)}", repr(name))
