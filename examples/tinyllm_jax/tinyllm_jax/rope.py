"""Rotary position embeddings."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from tinyllm.plugins import attention_factor, frequencies_by_length, inverse_frequencies
from tinyllm_jax.jitted import jitted
from tinyllm_jax.layer import widen


def angles(
    positions: Any, inv_freq: Any, dims: Any, base: float, scaling: Any, position_scale: float, lengths: Any = None
) -> tuple[Any, Any]:
    """Cosines and sines, in float64: float32 angles are off by up to 0.006 in long contexts."""
    if lengths is not None:  # scalings that go by the length of the sequence
        inv_freq, factor = frequencies_by_length(jnp, lengths.astype(jnp.float64), jnp.asarray, dims, base, scaling)
    else:
        factor = attention_factor(scaling)
        if inv_freq is None:
            inv_freq = inverse_frequencies(dims, base, scaling)
    turned = (jnp.asarray(positions, jnp.float64) * position_scale)[..., None] * inv_freq
    return jnp.cos(turned) * factor, jnp.sin(turned) * factor


@jitted("dims", "base", "scaling", "position_scale", "log_scale", "log_period")
def rope_angles(
    positions: Any,
    *,
    inv_freq: Any = None,
    lengths: Any = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: Any = None,
    position_scale: float = 1.0,
    log_scale: float = 0.0,
    log_period: int | None = None,
) -> tuple[Any, Any]:
    """The angles of all layers at once."""
    cos, sin = angles(positions, inv_freq, dims, base, scaling, position_scale, lengths)
    if log_period is not None:  # scores that grow with the position of the query
        periods = jnp.maximum(jnp.asarray(positions, jnp.int64) // log_period, 0)
        grown = 1 + log_scale * jnp.log1p(periods.astype(jnp.float64))[..., None]
        cos, sin = cos * grown, sin * grown
    return cos.astype(jnp.float32), sin.astype(jnp.float32)


@jitted("traditional")
def rope_rotate(x: Any, cos: Any, sin: Any, *, traditional: bool = False) -> Any:
    """(a, b) becomes (a cos - b sin, b cos + a sin); arrays do not change, so the result is put together from parts."""
    pairs, axis = cos.shape[-1], -1 if traditional else -2
    ends = widen(x[..., : 2 * pairs]).reshape(*x.shape[:-1], *((pairs, 2) if traditional else (2, pairs)))
    a, b = jnp.take(ends, 0, axis=axis), jnp.take(ends, 1, axis=axis)
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=axis).reshape(*x.shape[:-1], 2 * pairs)
    return jnp.concat([turned.astype(x.dtype), x[..., 2 * pairs :]], axis=-1)


@jitted("dims", "base", "scaling", "traditional", "position_scale")
def rope(
    x: Any,
    *,
    offset: Any = None,
    positions: Any = None,
    inv_freq: Any = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: Any = None,
    traditional: bool = False,
    position_scale: float = 1.0,
) -> Any:
    """Both in one: x [*B, L, D] stands at `positions`, or at offset, offset + 1, ..."""
    if positions is None:
        positions = jnp.asarray(0 if offset is None else offset, jnp.int64)[..., None] + jnp.arange(x.shape[-2])
    if inv_freq is None and dims is None:
        dims = x.shape[-1]
    cos, sin = angles(positions, inv_freq, dims, base, scaling, position_scale)
    if positions.ndim > 1:  # [B, L]: B is the first axis of x, heads and the like stand between
        shape = (len(cos), *(1,) * (x.ndim - 3), *cos.shape[1:])
        cos, sin = cos.reshape(shape), sin.reshape(shape)
    return rope_rotate(x, cos, sin, traditional=traditional)
