"""The sequences of a flat batch whose states have rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any


def sequences(q_start: Any, kv_len: Any, state_rows: Any) -> Iterator[tuple[int, int, int, bool]]:
    """First and last token, row, and whether it begins, of each sequence with new tokens."""
    bounds = pairwise(int(n) for n in q_start)
    for (first, last), length, row in zip(bounds, kv_len.tolist(), state_rows.tolist(), strict=True):
        if first < last:
            yield first, last, row, length == last - first
