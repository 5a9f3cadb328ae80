"""Ops on rows, and views: results are written in place where the reference makes an array at each step."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from tinyllm_numpy.widen import widen


def rms_norm(x: np.ndarray, weight: np.ndarray, *, eps: float = 1e-6, offset: float = 0.0) -> np.ndarray:
    """`x / sqrt(mean(x^2) + eps) * (offset + weight)`, `[*B, D]`, rounded once."""
    if x.shape[-1] == 0:  # the mean of nothing
        return x
    wide = widen(x)
    square = np.vecdot(wide, wide)[..., None]
    y: np.ndarray = wide / np.sqrt(square / x.shape[-1] + eps)
    y *= widen(weight) + offset if offset else widen(weight)
    return y.astype(x.dtype, copy=False)


def layer_norm(x: np.ndarray, weight: np.ndarray, *, bias: np.ndarray | None = None, eps: float = 1e-5) -> np.ndarray:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, `[*B, D]`, rounded once."""
    if x.shape[-1] == 0:  # the mean of nothing
        return x
    wide = widen(x)
    y: np.ndarray = wide - wide.mean(axis=-1, keepdims=True)
    y /= np.sqrt(np.vecdot(y, y)[..., None] / x.shape[-1] + eps)
    y *= widen(weight)
    if bias is not None:
        y += widen(bias)
    return y.astype(x.dtype, copy=False)


def rope_rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, traditional: bool = False) -> np.ndarray:
    """x `[*B, D]` with each pair (a, b) of its first 2R dims replaced by `(a cos - b sin, b cos + a sin)`."""
    pairs = cos.shape[-1]
    wide, y = widen(x), np.empty_like(x)
    first, second = (
        (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)) if traditional else (slice(0, pairs), slice(pairs, 2 * pairs))
    )
    a, b = wide[..., first], wide[..., second]
    y[..., first] = a * cos - b * sin
    y[..., second] = b * cos + a * sin
    y[..., 2 * pairs :] = x[..., 2 * pairs :]
    return y


def split(x: np.ndarray, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[np.ndarray, ...]:
    """Parts of x of the given sizes along an axis, as views."""
    before: tuple[Any, ...] = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(start, end), ...)] for start, end in pairwise(accumulate(sizes, initial=0)))


def split_heads(x: np.ndarray, *, heads: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Groups of heads `[*B, heads_i, D]` of x `[*B, N]`, as views."""
    total = sum(heads)
    by_head = x.reshape(*x.shape[:-1], total, x.shape[-1] // total)
    ends = np.cumsum(heads).tolist()
    return tuple(by_head[..., end - count : end, :] for end, count in zip(ends, heads, strict=True))


def merge_heads(x: np.ndarray) -> np.ndarray:
    """x `[*B, H, D]` as `[*B, H * D]`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
