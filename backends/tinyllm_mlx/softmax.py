"""softmax by exp, max and sum."""

from __future__ import annotations

import mlx.core as mx

from tinyllm_mlx.arrays import exp, row_sums, widen


def softmax(x: mx.array, *, axis: int = -1) -> mx.array:
    """The weights `exp(x - m) / sum exp(x - m)`, `[*B]`, along an axis; m, the maximum there, cancels out and keeps exp
    from overflowing."""
    if x.size == 0:
        return x
    wide = widen(x)
    weights = exp(wide - mx.max(wide, axis=axis, keepdims=True))
    total = row_sums(weights) if axis in (-1, x.ndim - 1) else mx.sum(weights, axis=axis, keepdims=True)
    return (weights / total).astype(x.dtype)
