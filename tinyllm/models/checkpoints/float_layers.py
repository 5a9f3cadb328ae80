"""Layers of floats of 8 and 4 bits as the formats of folders have them, each as the scheme that has its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.floats import Fp4, Fp8
from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.models.checkpoints.checkpoint import checked_weight
from tinyllm.models.checkpoints.quantization import (
    Arrays,
    Layer,
    Quantization,
    Tensors,
    by_row,
    group_within,
    powers_of_two,
)
from tinyllm.spec.scheme import SCALES, QuantType, QuantWeight

FLOAT8, POWER = "float8_e4m3fn", "float8_e8m0fnu"
"""Dtypes of numbers of 8 bits, and of scales that are powers of two."""

_MXFP4 = GGUF_SCHEMES["MXFP4"]


def fp8_layer(
    quantization: Quantization, stored: Tensors, stem: str, parts: dict[str, str], block: tuple[int, int]
) -> Layer:
    """Numbers and scales, the tensors of `parts` in this order: a scale for all, for each row, or for blocks of rows
    and columns that may be cut at the edges. block: its rows and columns; 0 columns: all."""
    codes, scales = parts.values()
    if len(stored[codes].shape) != 2:
        raise quantization.fail(codes, "a matrix", list(stored[codes].shape))
    quantization.need_dtype(stored, scales, *SCALES, POWER)
    rows, columns = shape = stored[codes].shape
    got = stored[scales].shape
    height, width = block[0], block[1] or columns
    if got in ((), (1,), (1, 1)) and not block[1]:
        height = rows
    elif got != (rows,) or block[1]:
        quantization.need_shape(stored, scales, (-(-rows // height), -(-columns // width)))
    scheme = Fp8(group_within(columns, width))

    def make(arrays: Arrays) -> QuantWeight:
        q, factors = arrays.values()
        if factors.dtype.name == POWER:
            factors = powers_of_two(f"{quantization.where}: {scales}", factors)
        factors = factors.reshape(-(-rows // height), -(-columns // width))
        made = {"q": q.view(np.uint8), "scales": by_row(factors, (rows, columns), (height, width))}
        return checked_weight(quantization.where, f"{stem}.weight", QuantWeight(scheme, made, (rows, columns)))

    return Layer(QuantType(shape, scheme), parts, make)


def mxfp8_layer(quantization: Quantization, stored: Tensors, stem: str, parts: dict[str, str]) -> Layer:
    """Numbers, in words or not, and powers of two for each 32 of a row."""
    codes, scales = parts.values()
    quantization.need_dtype(stored, codes, FLOAT8, "uint32", "uint8")
    quantization.need_dtype(stored, scales, "uint8", POWER)
    if len(stored[codes].shape) < 2:
        raise quantization.fail(codes, "a matrix", list(stored[codes].shape))
    shape = (*stored[codes].shape[:-1], stored[codes].shape[-1] * stored[codes].dtype.itemsize)

    def make(arrays: Arrays) -> QuantWeight:
        q, exponents = arrays.values()
        made = {"q": q.view(np.uint8), "scales": powers_of_two(f"{quantization.where}: {scales}", exponents)}
        return checked_weight(quantization.where, f"{stem}.weight", QuantWeight(Fp8(32), made, shape))

    return Layer(QuantType(shape, Fp8(32)), parts, make)


def fp4_layer(quantization: Quantization, stored: Tensors, stem: str, parts: dict[str, str]) -> Layer:
    """Numbers two to a byte, float scales for each 16 of a row, and perhaps a number that all are divided by."""
    codes, scales, *whole = parts.values()
    quantization.need_dtype(stored, codes, "uint8", "uint32")
    quantization.need_dtype(stored, scales, FLOAT8, "uint8")
    for name in whole:
        quantization.need_dtype(stored, name, "float32")
        if stored[name].shape not in ((), (1,)):
            raise quantization.fail(name, "one number", list(stored[name].shape))
    shape = (*stored[codes].shape[:-1], *(2 * size * stored[codes].dtype.itemsize for size in stored[codes].shape[-1:]))
    if not shape or shape[-1] % 16:
        raise quantization.fail(codes, "rows of a multiple of 16 numbers", list(shape))

    def make(arrays: Arrays) -> QuantWeight:
        q, by_group, *divisors = arrays.values()
        factor = np.float32(1) / divisors[0].reshape(-1)[0] if divisors else np.float32(1)
        made = {"q": words(q), "scales": by_group.view(np.uint8)}
        made["factors"] = np.full((*shape[:-1], 1), factor, np.float32)
        return checked_weight(quantization.where, f"{stem}.weight", QuantWeight(Fp4(), made, shape))

    return Layer(QuantType(shape, Fp4()), parts, make)


def mxfp4_layer(quantization: Quantization, stored: Tensors, stem: str, parts: dict[str, str]) -> Layer:
    """Numbers two to a byte `[..., N, K / 2]` or `[..., N, K / 32, 16]`, and powers of two for each 32 of a row."""
    codes, scales = parts.values()
    quantization.need_dtype(stored, codes, "uint8", "uint32")
    quantization.need_dtype(stored, scales, "uint8", POWER)
    lead, groups = stored[scales].shape[:-1], stored[scales].shape[-1:]
    octets = 16 // stored[codes].dtype.itemsize
    if not lead or stored[codes].shape not in ((*lead, *groups, octets), (*lead, groups[0] * octets)):
        raise quantization.fail(codes, f"{octets} of a row for each of its scales", list(stored[codes].shape))
    shape = (*lead, groups[0] * 32)

    def make(arrays: Arrays) -> QuantWeight:
        q, exponents = arrays.values()
        if (exponents.view(np.uint8) == 255).any():
            raise quantization.fail(scales, "numbers", "NaN")
        blocks = mxfp4_blocks(q.view(np.uint8).reshape(*lead, *groups, 16), exponents.view(np.uint8))
        return checked_weight(quantization.where, stem, QuantWeight(_MXFP4, {"blocks": blocks}, shape))

    return Layer(QuantType(shape, _MXFP4), parts, make)


def mxfp4_blocks(octets: NDArray[np.uint8], exponents: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blocks as GGUF has them, `[..., K / 32 * 17]`, of bytes `[..., K / 32, 16]` that hold neighbours: there byte `i`
    holds columns `i` and `i + 16`."""
    blocks = np.empty((*exponents.shape, 17), np.uint8)
    blocks[..., 0] = exponents
    for odd in (0, 1):
        low, high = ((octets[..., half : half + 8] >> (4 * odd)) & 15 for half in (0, 8))
        blocks[..., 1 + odd :: 2] = low | high << 4
    return blocks.reshape(*exponents.shape[:-1], -1)


def words(octets: NDArray[Any]) -> NDArray[np.uint32]:
    """Bytes, or words as they are, of which a row fills whole ones."""
    return np.ascontiguousarray(octets).view(np.uint32)
