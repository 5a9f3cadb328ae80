"""rms_norm and layer_norm by means along rows."""

from __future__ import annotations

import mlx.core as mx

from tinyllm_mlx.arrays import row_means, widen


def rms_norm(x: mx.array, weight: mx.array, *, eps: float = 1e-6, offset: float = 0.0) -> mx.array:
    """`x / sqrt(mean(x^2) + eps) * (offset + weight)`, `[*B, D]`, computed in float32 and rounded once."""
    wide = widen(x)
    weight = widen(weight) + offset if offset else widen(weight)
    return (wide * mx.rsqrt(row_means(wide * wide) + eps) * weight).astype(x.dtype)


def layer_norm(x: mx.array, weight: mx.array, *, bias: mx.array | None = None, eps: float = 1e-5) -> mx.array:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, `[*B, D]`, computed in float32 and rounded once."""
    wide = widen(x)
    centred = wide - row_means(wide)
    y = centred * mx.rsqrt(row_means(centred * centred) + eps) * widen(weight)
    return (y if bias is None else y + widen(bias)).astype(x.dtype)
