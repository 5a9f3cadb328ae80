"""Quantized weights, and what goes wrong in them: packing, groups, zero points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, wide
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import QuantWeight, Scheme

SCHEMES = (Affine(), Int8())


def dequantize(weight: QuantWeight, *, mistake: str | None = None) -> Any:
    return numbers(weight, mistake)


def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    rows = matrix(weight, mistake, wide(x).dtype) if isinstance(weight, QuantWeight) else wide(weight)
    if mistake == "activations rounded to int8":
        step = np.maximum(np.abs(x).max(axis=-1, keepdims=True, initial=0), 1e-6) / 127
        x = (np.round(x / step) * step).astype(x.dtype)
    y = wide(x) @ rows.T
    return (y if bias is None else y + wide(bias)).astype(x.dtype)


def embedding(ids: Any, weight: Any, *, mistake: str | None = None) -> Any:
    return (numbers(weight, mistake) if isinstance(weight, QuantWeight) else weight)[ids]


def quantize(w: Any, *, scheme: Scheme = Affine(), mistake: str | None = None) -> QuantWeight:
    around_zero, size = isinstance(scheme, Int8), scheme.block
    groups = wide(w).reshape(*w.shape[:-1], -1 if w.size else w.shape[-1] // size, size)
    if mistake == "scale of the whole row":
        groups = np.broadcast_to(wide(w)[..., None, :], (*groups.shape[:-1], w.shape[-1]))
    short = np.float16 if w.dtype.itemsize < 4 else np.float32
    low = np.zeros(groups.shape[:-1], groups.dtype) if around_zero else groups.min(axis=-1)
    least, most = (-127, 127) if around_zero else (0, 2**scheme.bits - 1)
    scales = (np.abs(groups).max(axis=-1) if around_zero else groups.max(axis=-1) - low) / most
    if mistake == "biases a little low":
        low = low * (1 + 3 * np.finfo(short).eps)
    shifted = wide(w) - np.repeat(low, size, axis=-1)
    levels = shifted / np.repeat(np.where(scales > 0, scales, 1), size, axis=-1)
    q = np.clip(np.floor(levels) if mistake == "rounded down" else np.round(levels), least, most)
    arrays = {"q": q.astype(np.int8) if around_zero else pack(q, scheme.bits), "scales": scales.astype(short)}
    if not around_zero:
        arrays["biases"] = low.astype(short)
    return QuantWeight(scheme, arrays, w.shape, str(w.dtype))


def numbers(weight: QuantWeight, mistake: str | None = None) -> Any:
    """The matrix in the dtype that the weight says."""
    dtype = numpy_dtype(weight.dtype)
    return matrix(weight, mistake, np.result_type(dtype, np.float32)).astype(dtype)


def matrix(weight: QuantWeight, mistake: str | None = None, dtype: Any = np.float32) -> Any:
    """scale * q + bias, in float32 or float64."""
    q, scheme = weight.arrays["q"], weight.scheme
    if isinstance(scheme, Affine):
        q = unpack(q, scheme.bits, weight.shape[-1], mistake)
    if mistake == "int8 read as unsigned" and q.dtype == np.int8:
        q = q.view(np.uint8)
    scales = weight.arrays["scales"].astype(dtype)
    biases = weight.arrays["biases"].astype(dtype) if isinstance(scheme, Affine) else np.zeros_like(scales)
    if mistake == "scales rounded to float16":
        scales = scales.astype(np.float16).astype(dtype)
    if mistake == "zero point off by one":
        biases = biases + scales * isinstance(scheme, Affine)
    if mistake == "groups shifted by one":
        scales = np.roll(scales, 1, axis=-1)
    values = q.astype(dtype) * np.repeat(scales, scheme.block, axis=-1) + np.repeat(biases, scheme.block, axis=-1)
    order = weight.arrays.get("permutation")
    if order is None or mistake == "permutation ignored":
        return values
    if mistake == "permutation the other way":
        return values[..., order]
    placed = np.empty_like(values)
    placed[..., order] = values
    return placed


def unpack(words: Any, bits: int, count: int, mistake: str | None = None) -> Any:
    """A row's little-endian bit stream as integers."""
    little = words.astype("<u4")
    stream = np.unpackbits(np.ascontiguousarray(little).view(np.uint8), axis=-1, bitorder="little")
    taken = stream[..., : count * bits].reshape(*words.shape[:-1], count, bits)
    if mistake == "highest bits first":
        taken = taken[..., ::-1]
    if mistake == "nibbles swapped" and bits == 4:
        taken = taken.reshape(*words.shape[:-1], count // 2, 2, bits)[..., ::-1, :].reshape(taken.shape)
    if mistake == "bits past a word lost":
        place = np.arange(count)[:, None] * bits % 32 + np.arange(bits)
        taken = np.where(place < 32, taken, 0)
    return (taken.astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)


def pack(values: Any, bits: int) -> Any:
    """The inverse of `unpack`."""
    flags = (values.astype(np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    stream = flags.reshape(*values.shape[:-1], values.shape[-1] * bits)
    return np.packbits(stream, axis=-1, bitorder="little").view("<u4").astype(np.uint32)


_MUTANTS = (
    Mutant("rounded down", "quantize", "floor for round: all weights half a step too small.", quantize),
    Mutant(
        "scale of the whole row",
        "quantize",
        "One scale a row: a single large weight costs all others their digits.",
        quantize,
    ),
    Mutant(
        "biases a little low", "quantize", "Each weight is within its bound, but all are off the same way.", quantize
    ),
    Mutant(
        "nibbles swapped",
        "dequantize",
        "The high half of a byte is read first: neighbouring columns change places.",
        dequantize,
    ),
    Mutant("highest bits first", "dequantize", "Each number's bits are read from the wrong end.", dequantize),
    Mutant(
        "bits past a word lost",
        "dequantize",
        "With 3, 5 or 6 bits a number may lie in two words; only the first is read.",
        dequantize,
    ),
    Mutant("zero point off by one", "dequantize", "Each weight is one step too large.", dequantize),
    Mutant("groups shifted by one", "dequantize", "Scales of the neighbouring group.", dequantize),
    Mutant("int8 read as unsigned", "dequantize", "-1 becomes 255.", dequantize),
    Mutant("scales rounded to float16", "dequantize", "float32 scales lose 13 bits.", dequantize),
    Mutant(
        "permutation ignored",
        "linear",
        "Columns stored in another order (GPTQ's act-order) meet the wrong inputs.",
        linear,
    ),
    Mutant(
        "permutation the other way",
        "embedding",
        "The inverse order: right for those that only swap pairs.",
        embedding,
    ),
    Mutant(
        "activations rounded to int8",
        "linear",
        "Fast, but not what was asked for: such a kernel must say `exact=False`.",
        linear,
    ),
)

MUTANTS = tuple(replace(mutant, schemes=SCHEMES) for mutant in _MUTANTS)
