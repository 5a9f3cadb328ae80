"""Rotary position embeddings: angles, and the rotation of pairs of dims."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from tinyllm.plugins import RopeScaling, attention_factor, frequencies_by_length, inverse_frequencies
from tinyllm_mlx.arrays import widen


def rope_angles(
    positions: mx.array,
    *,
    inv_freq: mx.array | None = None,
    lengths: mx.array | None = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    position_scale: float = 1.0,
    log_scale: float = 0.0,
    log_period: int | None = None,
) -> tuple[mx.array, mx.array]:
    """cos and sin `[*P, R]` in float32 of `position * position_scale * inv_freq` radians, times the attention factor,
    and what grows with the logarithm of the position."""
    factor: Any = attention_factor(scaling) if lengths is None else None
    if lengths is not None and scaling is not None:
        inv_freq, factor = frequencies_by_length(mx, lengths.astype(mx.float32), _constant, dims or 0, base, scaling)
    elif inv_freq is None:
        inv_freq = _constant(inverse_frequencies(dims or 0, base, scaling))
    angles = (positions.astype(mx.float32) * position_scale)[..., None] * inv_freq.astype(mx.float32)
    cos, sin = mx.cos(angles), mx.sin(angles)
    if log_period is not None:
        periods = mx.maximum(positions.astype(mx.int64) // log_period, 0)
        grown = 1 + log_scale * mx.log1p(periods.astype(mx.float32))[..., None]
        cos, sin = cos * grown, sin * grown
    return (cos, sin) if isinstance(factor, float) and factor == 1 else (cos * factor, sin * factor)


def _constant(numbers: np.ndarray) -> mx.array:
    return mx.array(numbers.tolist(), mx.float32)


_SIGN = mx.array([-1.0, 1.0])
_SIGN_OF_HALF = _SIGN[:, None]
mx.eval(_SIGN_OF_HALF)


def rope_rotate(x: mx.array, cos: mx.array, sin: mx.array, *, traditional: bool = False) -> mx.array:
    """x `[*B, D]` with each pair (a, b) of its first 2R dims replaced by `(a cos - b sin, b cos + a sin)`: that is
    `(a, b) cos + (b, a) (-sin, sin)`."""
    pairs = cos.shape[-1]
    turned = widen(x[..., : 2 * pairs])
    if traditional:
        split = turned.reshape(*turned.shape[:-1], pairs, 2)
        swapped, cos, sin = split[..., ::-1], cos[..., None], sin[..., None] * _SIGN
    else:
        split = turned.reshape(*turned.shape[:-1], 2, pairs)
        swapped, cos, sin = split[..., ::-1, :], cos[..., None, :], sin[..., None, :] * _SIGN_OF_HALF
    turned = (split * cos + swapped * sin).reshape(turned.shape).astype(x.dtype)
    return turned if 2 * pairs == x.shape[-1] else mx.concatenate([turned, x[..., 2 * pairs :]], axis=-1)


def rope(
    x: mx.array,
    *,
    offset: Any = None,
    positions: mx.array | None = None,
    inv_freq: mx.array | None = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    traditional: bool = False,
    position_scale: float = 1.0,
) -> mx.array:
    """x `[*B, L, D]` rotated by the angles of its positions along axis -2."""
    if positions is None:
        positions = mx.arange(x.shape[-2])
        if offset is not None:
            positions = mx.array(offset)[..., None].astype(mx.int32) + positions
    if inv_freq is None and dims is None:
        dims = x.shape[-1]
    cos, sin = rope_angles(
        positions, inv_freq=inv_freq, dims=dims, base=base, scaling=scaling, position_scale=position_scale
    )
    if cos.ndim == 3:  # positions for each entry of the first axis
        shape = (cos.shape[0], *(1,) * (x.ndim - 3), *cos.shape[1:])
        cos, sin = cos.reshape(shape), sin.reshape(shape)
    return rope_rotate(x, cos, sin, traditional=traditional)
