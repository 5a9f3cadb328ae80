"""split, split_heads and merge_heads: views, which cost nothing."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np


def split(x: np.ndarray, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[np.ndarray, ...]:
    """Parts of x of the given sizes along an axis."""
    before: tuple[Any, ...] = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(start, end), ...)] for start, end in pairwise(accumulate(sizes, initial=0)))


def split_heads(x: np.ndarray, *, heads: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Groups of heads `[*B, heads_i, D]` of x `[*B, N]`."""
    total = sum(heads)
    by_head = x.reshape(*x.shape[:-1], total, x.shape[-1] // total)
    return tuple(by_head[..., start:end, :] for start, end in pairwise(accumulate(heads, initial=0)))


def merge_heads(x: np.ndarray) -> np.ndarray:
    """x `[*B, H, D]` as `[*B, H * D]`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
