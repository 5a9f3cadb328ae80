"""What backends share about the pages of a key-value cache."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def neighbours(pages: np.ndarray) -> bool:
    """Whether page numbers rise by one, so that the pages can be read as one."""
    return bool((np.diff(pages) == 1).all())


def runs(slots: np.ndarray, page_size: int) -> list[tuple[int, int]]:
    """Tokens `(first, past the last)` that go to neighbouring slots of one page, so that each run is one copy."""
    if len(slots) < 2:  # decoding: the step that is taken most often
        return [(0, 1)] if len(slots) else []
    slots = np.asarray(slots, np.int64)
    breaks = np.flatnonzero((np.diff(slots) != 1) | (slots[1:] % page_size == 0)) + 1
    return list(pairwise([0, *breaks.tolist(), len(slots)]))
