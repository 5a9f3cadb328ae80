"""Finds stop strings in a stream of text pieces, also across their borders."""

from __future__ import annotations

from itertools import compress


class StopStrings:
    """Holds back text that may turn out to begin a stop string. A stop string may be or contain what is not shown: the
    text of a special token. included: whether the stop string that ends the text is part of it, as a whole."""

    def __init__(self, stops: tuple[str, ...], included: bool = False) -> None:
        self._stops, self._included = stops, included
        self._held = ""
        self._shown: list[bool] = []  # for each character held back
        self.found = False

    def push(self, piece: str, shown: bool = True) -> str:
        """Take a piece of text, which is to be shown or not, and return what is safe to show. `found` turns True at the
        first stop string, with which the text ends."""
        if not self._stops:
            return piece if shown else ""
        text, marks = self._held + piece, self._shown + [shown] * len(piece)
        hits = [(start + len(s), start) for s in self._stops if (start := text.find(s)) >= 0]
        if hits:  # the one that is complete first wins, so that it does not matter how the text is cut into pieces
            self.found, self._held, self._shown = True, "", []
            end, start = min(hits)
            return "".join(compress(text[:start], marks)) + (text[start:end] if self._included else "")
        keep = max((n for s in self._stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        end = len(text) - keep
        self._held, self._shown = text[end:], marks[end:]
        return "".join(compress(text[:end], marks))

    def finish(self) -> str:
        """Return the text that was held back, which is now known to be no part of a stop string."""
        held = "".join(compress(self._held, self._shown))
        self._held, self._shown = "", []
        return held
