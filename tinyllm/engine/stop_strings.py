"""Finds stop strings in a stream of text pieces, also across their borders."""

from __future__ import annotations


class StopStrings:
    """Holds back text that may turn out to begin a stop string. shown: whether the stop string that ends the text is
    part of it."""

    def __init__(self, stops: tuple[str, ...], shown: bool = False) -> None:
        self._stops, self._shown = stops, shown
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Take a piece of text and return what is safe to show. `found` turns True at the first stop string, with
        which the text ends."""
        if not self._stops:
            return piece
        text = self._held + piece
        hits = [(start + len(s), start) for s in self._stops if (start := text.find(s)) >= 0]
        if hits:  # the one that is complete first wins, so that it does not matter how the text is cut into pieces
            self.found, self._held = True, ""
            end, start = min(hits)
            return text[: end if self._shown else start]
        keep = max((n for s in self._stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return the text that was held back, which is now known to be no part of a stop string."""
        held, self._held = self._held, ""
        return held
