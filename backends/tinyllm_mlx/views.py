"""split, split_heads, merge_heads: other shapes of the same numbers."""

from __future__ import annotations

from itertools import accumulate

import mlx.core as mx


def split(x: mx.array, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[mx.array, ...]:
    """Parts of x of the given sizes along an axis."""
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(end - size, end), ...)] for size, end in zip(sizes, accumulate(sizes), strict=True))


def split_heads(x: mx.array, *, heads: tuple[int, ...]) -> tuple[mx.array, ...]:
    """Groups of heads `[*B, heads_i, D]` of x `[*B, N]`."""
    split_x = x.reshape(*x.shape[:-1], sum(heads), x.shape[-1] // sum(heads))
    return tuple(split_x[..., end - size : end, :] for size, end in zip(heads, accumulate(heads), strict=True))


def merge_heads(x: mx.array) -> mx.array:
    """x `[*B, H, D]` with its last two axes as one, `[*B, H * D]`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
