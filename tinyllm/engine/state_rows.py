"""Which row of a model's recurrent states each sequence has that runs."""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class StateRows:
    """Rows 0 to `count - 1`, each of one sequence or free."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        heapify(self._free)

    def take(self) -> int:
        """The first free row: as many are in use as sequences ever ran together, and memory is taken for no more."""
        return heappop(self._free)

    def give(self, row: int) -> None:
        """A row that its sequence needs no longer."""
        heappush(self._free, row)
