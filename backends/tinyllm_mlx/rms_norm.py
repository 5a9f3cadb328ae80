"""rms_norm by a mean of squares."""

from __future__ import annotations

import mlx.core as mx

from tinyllm_mlx.arrays import row_means, widen


def rms_norm(x: mx.array, weight: mx.array, *, eps: float = 1e-6) -> mx.array:
    """`x / sqrt(mean(x^2) + eps) * weight`, `[*B, D]`, computed in float32 and rounded once."""
    wide = widen(x)
    return (wide * mx.rsqrt(row_means(wide * wide) + eps) * widen(weight)).astype(x.dtype)
