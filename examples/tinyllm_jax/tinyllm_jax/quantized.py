"""Quantized weights of every scheme: the scheme's own formulas, compiled whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from tinyllm.plugins import Affine, QuantWeight, Scheme
from tinyllm_jax.jitted import jitted
from tinyllm_jax.layer import widen


@jitted()
def dequantize(weight: QuantWeight) -> Any:
    """The matrix [..., N, K], computed in float32 (for float64 in that) and rounded once to the weight's dtype."""
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    return weight.scheme.dequantize(jnp, weight, wide).astype(weight.dtype)


@jitted()
def embedding(ids: Any, weight: Any) -> Any:
    """The rows [*B, D] that `ids` name; of a quantized table only those are expanded."""
    if isinstance(weight, QuantWeight):
        return dequantize(weight.rows(lambda array: array[ids], ids.shape))
    return weight[ids]


@jitted("scheme")
def quantize(w: Any, *, scheme: Scheme = Affine()) -> QuantWeight:
    """The weight nearest to floats [..., N, K]; the scales of 16-bit ones are kept in float16."""
    weight = scheme.quantize(jnp, widen(w))
    half = jnp.float16 if w.dtype.itemsize == 2 else jnp.float32
    arrays = {name: a.astype(half) if a.dtype.kind == "f" else a for name, a in weight.arrays.items()}
    return replace(weight, arrays=arrays, dtype=str(w.dtype))
