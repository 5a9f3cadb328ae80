"""Finds stop strings in a stream of text pieces, also across their borders."""

from __future__ import annotations

from itertools import compress


class StopAutomaton:
    """All stop strings in one automaton, so that a character costs the same however many and long they are (Aho and
    Corasick 1975). Made in time linear in their length; it holds no state, so sequences share it.

    A node stands for what stop strings begin with; node 0 for nothing.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._next: dict[tuple[int, str], int] = {}
        self._falls: list[int]  # for each node that of the longest proper end of its text
        self.lengths = [0]
        """For each node the length of its text."""
        self.hits: list[int]
        """For each node the length of the longest stop string that its text ends with; 0: it ends with none."""
        ends: dict[int, int] = {}
        parents, characters = [0], [""]
        for stop in stops:
            node = 0
            for length, character in enumerate(stop, 1):
                child = self._next.get((node, character))
                if child is None:
                    child = self._next[node, character] = len(self.lengths)
                    parents.append(node)
                    characters.append(character)
                    self.lengths.append(length)
                node = child
            ends[node] = len(stop)
        self._falls, self.hits = [0] * len(parents), [0] * len(parents)
        # the shorter first, as they tell where the longer ones fall back to
        for node in sorted(range(1, len(parents)), key=self.lengths.__getitem__):
            if parents[node]:
                self._falls[node] = self.step(self._falls[parents[node]], characters[node])
            self.hits[node] = ends.get(node) or self.hits[self._falls[node]]

    def __bool__(self) -> bool:
        """Whether there is any stop string."""
        return len(self.lengths) > 1

    def step(self, node: int, character: str) -> int:
        """The node of the longest end of a node's text and one more character that begins a stop string."""
        found = self._next.get((node, character))
        while found is None and node:
            node = self._falls[node]
            found = self._next.get((node, character))
        return found or 0


class StopStrings:
    """Holds back text that may turn out to begin a stop string. A stop string may be or contain what is not shown: the
    text of a special token.

    Args:
        stops: the stop strings, or what was made of them.
        included: whether the stop string that ends the text is part of it, as a whole.
    """

    def __init__(self, stops: tuple[str, ...] | StopAutomaton, included: bool = False) -> None:
        self._automaton = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._included = included
        self._node = 0
        self._held: list[str] = []  # pieces of text that may begin a stop string
        self._shown: list[bool] = []  # for each character held back
        self.found = False

    def push(self, piece: str, shown: bool = True) -> str:
        """Take a piece of text, which is to be shown or not, and return what is safe to show. `found` turns True at the
        first stop string, with which the text ends."""
        automaton = self._automaton
        if not automaton:
            return piece if shown else ""
        before = len(self._shown)
        self._held.append(piece)
        self._shown += [shown] * len(piece)
        for place, character in enumerate(piece, before + 1):
            self._node = automaton.step(self._node, character)
            if hit := automaton.hits[self._node]:  # the one that is complete first wins, however the text is cut
                text, start = "".join(self._held), place - hit
                told = "".join(compress(text[:start], self._shown)) + (text[start:place] if self._included else "")
                self.found, self._node, self._held, self._shown = True, 0, [], []
                return told
        ready = len(self._shown) - automaton.lengths[self._node]
        if not ready:  # a long beginning of a stop string is not copied for each piece
            return ""
        text = "".join(self._held)
        told = "".join(compress(text[:ready], self._shown))
        self._held, self._shown = [text[ready:]], self._shown[ready:]
        return told

    def finish(self) -> str:
        """Return the text that was held back, which is now known to be no part of a stop string."""
        held = "".join(compress("".join(self._held), self._shown))
        self._node, self._held, self._shown = 0, [], []
        return held
