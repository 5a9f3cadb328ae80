"""Quantized weights: small integers in groups, each group with a scale and a bias."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from tinyllm.plugins import QuantWeight
from tinyllm_jax.jitted import jitted
from tinyllm_jax.layer import linear, widen


def regroup(numbers: Any, old: int, new: int) -> Any:
    """A row of `old`-bit numbers is one stream of bits, lowest first; the same stream as uint32 numbers of `new`
    bits."""
    bits = (numbers.astype(jnp.uint32)[..., None] >> jnp.arange(old, dtype=jnp.uint32)) & 1
    bits = bits.reshape(*numbers.shape[:-1], numbers.shape[-1] * old // new, new)
    return (bits << jnp.arange(new, dtype=jnp.uint32)).sum(axis=-1, dtype=jnp.uint32)


def matrix(weight: QuantWeight, dtype: Any = jnp.float32) -> Any:
    """w = scale * q + bias, [..., N, K]."""
    parts, size = weight.arrays, weight.group_size
    q = regroup(parts["q"], 32, weight.bits) if weight.scheme == "affine" else parts["q"]
    w = q.astype(dtype) * jnp.repeat(parts["scales"].astype(dtype), size, axis=-1)
    if weight.scheme == "affine":
        w = w + jnp.repeat(parts["biases"].astype(dtype), size, axis=-1)
    return w[..., jnp.argsort(parts["permutation"])] if "permutation" in parts else w


@jitted("dtype")
def dequantize(weight: QuantWeight, *, dtype: str = "float32") -> Any:
    """Computed in float32, rounded once."""
    return matrix(weight).astype(dtype)


@jitted("dtype")
def quantized_embedding(ids: Any, weight: QuantWeight, *, dtype: str = "float32") -> Any:
    """Only the rows asked for are unpacked."""
    return matrix(weight.rows(lambda array: array[ids], ids.shape)).astype(dtype)


@jitted()
def quantized_linear(x: Any, weight: QuantWeight, *, bias: Any = None) -> Any:
    """Unpacked at every call."""
    return linear(x, matrix(weight, widen(x).dtype), bias=bias)


def prepare(weight: QuantWeight, uses: tuple[str, ...]) -> Any:
    """Once, when a model is bound: speed for memory."""
    return dequantize(weight)


def quantized_linear_dense(x: Any, weight: Any, *, bias: Any = None) -> Any:
    """The weight comes unpacked, as `prepare` made it."""
    return linear(x, weight, bias=bias)


@jitted("bits", "group_size", "scheme")
def quantize(w: Any, *, bits: int = 4, group_size: int = 64, scheme: str = "affine") -> QuantWeight:
    """Each group spread over the integers there are: its least number is 0, its largest 2^bits - 1."""
    groups = widen(w).reshape(*w.shape[:-1], w.shape[-1] // group_size, group_size)
    least = jnp.zeros(groups.shape[:-1], groups.dtype) if scheme == "int8" else groups.min(axis=-1)
    span = jnp.abs(groups).max(axis=-1) / 127 if scheme == "int8" else (groups.max(axis=-1) - least) / (2**bits - 1)
    q = jnp.rint((groups - least[..., None]) / jnp.where(span > 0, span, 1)[..., None]).reshape(w.shape)
    half = jnp.float16 if w.dtype.itemsize == 2 else jnp.float32
    if scheme == "int8":
        return QuantWeight(scheme, {"q": q.astype(jnp.int8), "scales": span.astype(half)}, 8, group_size, w.shape)
    arrays = {"q": regroup(q, bits, 32), "scales": span.astype(half), "biases": least.astype(half)}
    return QuantWeight(scheme, arrays, bits, group_size, w.shape)
