"""Quantized numbers over the array namespace of references: the bit stream, and what a `QuantWeight` stands for."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from tinyllm.errors import UnsupportedError
from tinyllm.spec.quantized import SCHEMES, WORD, QuantWeight


def pack(xp: Any, values: Any, bits: int) -> Any:
    """Integers `[..., K]` below `2**bits` to a little-endian bit stream per row: uint32 `[..., K * bits / 32]`.

    The pattern of value borders in words repeats, so one repetition is worked out and all are done at once.
    """
    count = WORD // gcd(bits, WORD)  # values of one repetition, which fill `words` words
    words = count * bits // WORD
    chunks = xp.reshape(xp.astype(values, xp.uint32), (*values.shape[:-1], values.shape[-1] // count, count))
    packed = [xp.zeros(chunks.shape[:-1], dtype=xp.uint32) for _ in range(words)]
    for i in range(count):
        word, shift = divmod(i * bits, WORD)
        value = chunks[..., i]
        packed[word] = xp.bitwise_or(packed[word], xp.bitwise_left_shift(value, xp.asarray(shift, dtype=xp.uint32)))
        if shift + bits > WORD:
            spill = xp.bitwise_right_shift(value, xp.asarray(WORD - shift, dtype=xp.uint32))
            packed[word + 1] = xp.bitwise_or(packed[word + 1], spill)
    return xp.reshape(xp.stack(packed, axis=-1), (*values.shape[:-1], values.shape[-1] * bits // WORD))


def unpack(xp: Any, words: Any, bits: int, count: int) -> Any:
    """The inverse of `pack`: uint32 `[..., K * bits / 32]` to uint32 `[..., K]`."""
    start = np.arange(count) * bits
    word, shift = start // WORD, start % WORD
    spills = shift + bits > WORD
    low = xp.bitwise_right_shift(xp.take(words, xp.asarray(word), axis=-1), xp.asarray(shift.astype(np.uint32)))
    if spills.any():
        following = xp.take(words, xp.asarray(np.where(spills, word + 1, word)), axis=-1)
        high = xp.bitwise_left_shift(following, xp.asarray((WORD - shift).astype(np.uint32) % WORD))
        keep = xp.asarray(np.where(spills, 2**WORD - 1, 0).astype(np.uint32))
        low = xp.bitwise_or(low, xp.bitwise_and(high, keep))
    return xp.bitwise_and(low, xp.asarray(2**bits - 1, dtype=xp.uint32))


def per_column(xp: Any, groups: Any, group_size: int) -> Any:
    """Numbers of groups `[..., G]` repeated for each of their columns `[..., G * group_size]`."""
    spread = xp.broadcast_to(xp.expand_dims(groups, axis=-1), (*groups.shape, group_size))
    return xp.reshape(spread, (*groups.shape[:-1], groups.shape[-1] * group_size))


def levels(xp: Any, weight: QuantWeight) -> Any:
    """The stored integers, as floats of the scales' dtype `[..., N, K]`, in the order they are stored.

    Raises `UnsupportedError` for a scheme that is not of the core.
    """
    scales, q = weight.arrays["scales"], weight.arrays["q"]
    if weight.scheme == "affine":
        return xp.astype(unpack(xp, q, weight.bits, weight.shape[-1]), scales.dtype)
    if weight.scheme == "int8":
        return xp.astype(q, scales.dtype)
    raise UnsupportedError(f"dequantize: the reference knows schemes {' and '.join(SCHEMES)}, not {weight.scheme!r}")


def unpermute(xp: Any, weight: QuantWeight, values: Any) -> Any:
    """Columns put where the inputs are: stored column `k` belongs to input `permutation[k]`."""
    permutation = weight.arrays.get("permutation")
    if permutation is None:
        return values
    order = xp.arange(permutation.shape[0])
    here = xp.expand_dims(permutation, axis=1) == xp.expand_dims(order, axis=0)
    inverse = xp.sum(xp.where(here, xp.expand_dims(order, axis=1), xp.asarray(0, dtype=order.dtype)), axis=0)
    return xp.take(values, inverse, axis=-1)


def dequantized(xp: Any, weight: QuantWeight) -> Any:
    """`scale * q + bias` in the dtype of the scales (the caller has widened them)."""
    values = levels(xp, weight) * per_column(xp, weight.arrays["scales"], weight.group_size)
    if weight.scheme == "affine":
        values = values + per_column(xp, weight.arrays["biases"], weight.group_size)
    return unpermute(xp, weight, values)


def unpacked(weight: QuantWeight, dtype: Any = np.float32) -> np.ndarray:
    """The matrix `[..., N, K]` that a weight of numpy arrays stands for, computed in float32 or float64."""
    arrays = {name: a if a.dtype.kind in "iu" else a.astype(dtype) for name, a in weight.arrays.items()}
    matrix: np.ndarray = dequantized(np, weight.with_arrays(arrays))
    return matrix


def magnitude(weight: QuantWeight) -> Any:
    """`|scale * q| + |bias|`, float64 in numpy: what the rounding errors of a dequantized number are relative to."""
    arrays = {
        name: np.asarray(a) if a.dtype.kind in "iu" else np.abs(np.asarray(a, np.float64))
        for name, a in weight.arrays.items()
    }
    if weight.scheme == "int8":
        arrays["q"] = np.abs(arrays["q"].astype(np.int16))
    return dequantized(np, weight.with_arrays(arrays))
