"""A share of a processor that many small pieces of work may have together."""

from __future__ import annotations

from collections.abc import Callable


class ProcessorBudget:
    """Seconds of processor time, that grow with the time that goes by. A piece of work whose cost nobody knows begins
    while some are left, and is paid for when it has ended: a debt has to be grown out of.

    Args:
        share: seconds that each second brings.
        burst: most seconds that are kept, and those of the beginning.
        clock: seconds, from any beginning.
    """

    def __init__(self, share: float, burst: float, clock: Callable[[], float]) -> None:
        self._share, self._burst, self._clock = share, burst, clock
        self._seconds, self._since = burst, clock()

    @property
    def left(self) -> bool:
        """Whether work may begin."""
        now = self._clock()
        self._seconds = min(self._burst, self._seconds + (now - self._since) * self._share)
        self._since = now
        return self._seconds > 0

    def spend(self, seconds: float) -> None:
        """Take what a piece of work has cost."""
        self._seconds -= seconds
