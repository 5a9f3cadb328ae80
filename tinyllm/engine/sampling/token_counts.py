"""How often each token was generated, kept as arrays that penalties are computed on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tinyllm.engine.sampling.arrays import Ids, Logits


class TokenCounts:
    """The tokens of one sequence, each once, with the number of times that it was generated."""

    def __init__(self, prompt: Iterable[int] = ()) -> None:
        self._ids = np.unique(np.fromiter(prompt, np.int64))
        self._slots = {int(token): slot for slot, token in enumerate(self._ids)}
        self._counts = np.zeros(len(self._ids), np.float32)

    def add(self, token: int) -> None:
        """Count a generated token."""
        slot = self._slots.setdefault(token, len(self._slots))
        if slot >= len(self._ids):
            more = max(64, len(self._ids))
            self._ids, self._counts = np.pad(self._ids, (0, more)), np.pad(self._counts, (0, more))
        self._ids[slot] = token
        self._counts[slot] += 1

    @property
    def ids(self) -> Ids:
        """Each token of the sequence once, `[n]`."""
        return self._ids[: len(self._slots)]

    @property
    def generated(self) -> Logits:
        """How often each of `ids` was generated, float32 `[n]`; 0 for a token of the prompt alone."""
        return self._counts[: len(self._slots)]
