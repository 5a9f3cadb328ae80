"""The speed at which replies are written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class RateMeter:
    """Tokens per second over the last seconds.

    Args:
        window: how many seconds.
    """

    def __init__(self, window: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window, self._clock = window, clock
        self._counts: deque[tuple[float, int]] = deque()  # (time, tokens)

    def add(self, tokens: int) -> None:
        """Count tokens that were written just now."""
        now = self._clock()
        if self._counts and now - self._counts[-1][0] < 0.1:
            self._counts[-1] = self._counts[-1][0], self._counts[-1][1] + tokens
        else:
            self._counts.append((now, tokens))
            self._forget(now)

    @property
    def per_second(self) -> float:
        """The mean over the window that ends now."""
        self._forget(self._clock())
        return sum(tokens for _, tokens in self._counts) / self._window

    def _forget(self, now: float) -> None:
        while self._counts and now - self._counts[0][0] > self._window:
            self._counts.popleft()
