"""Weights laid out as the kernels read them: tiles of 16 rows, cells of 32 columns; see `source/weight.h`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyllm.plugins import Affine, Call, Int8, QuantWeight, numpy_dtype
from tinyllm_native.arrays import contiguous
from tinyllm_native.library import run
from tinyllm_native.records import DTYPES, HEADER, weight_of

LANES, CELL = 16, 32
TWO_LEVELS, TWO_LEVELS_SIGNED = 3, 4
NON_LINEAR, E2M1 = 1, 2
AROUND = 128
"""What is added to signed codes and to numbers of tables, so that they are unsigned."""


@dataclass(frozen=True)
class _Format:
    """How a GGUF format is packed: bits of a code, what code is zero, columns that share a scale."""

    bits: int
    zero: int = 0
    group: int = 32
    scaled: int = DTYPES["float16"]
    minimums: bool = False
    table: int = 0


FORMATS = {
    "q4_0": _Format(4, 8),
    "q4_1": _Format(4, minimums=True),
    "q5_0": _Format(5, 16),
    "q5_1": _Format(5, minimums=True),
    "q8_0": _Format(8, AROUND),
    "q2_k": _Format(2, 0, 16, TWO_LEVELS, minimums=True),
    "q3_k": _Format(3, 4, 16, TWO_LEVELS_SIGNED),
    "q4_k": _Format(4, 0, 32, TWO_LEVELS, minimums=True),
    "q5_k": _Format(5, 0, 32, TWO_LEVELS, minimums=True),
    "q6_k": _Format(6, 32, 16, TWO_LEVELS_SIGNED),
    "iq4_nl": _Format(4, AROUND, table=NON_LINEAR),
    "iq4_xs": _Format(4, AROUND, 32, TWO_LEVELS_SIGNED, table=NON_LINEAR),
    "mxfp4": _Format(4, AROUND, scaled=DTYPES["float32"], table=E2M1),
}
"""GGUF's formats by the names of their schemes, in the order of `source/pack.c`."""

SOURCES = (*FORMATS, "affine", "int8", "dense")
SCHEMES = SOURCES[:-1]
"""Names of the schemes whose weights are packed as they are."""


def pack(weight: np.ndarray | QuantWeight, call: Call) -> dict[str, np.ndarray]:
    """A weight `[N, K]` in tiles. A quantized one keeps its bits, a dense one its dtype: that is float32 if it was
    expanded for products of 16-bit numbers."""
    if isinstance(weight, QuantWeight):
        return _quantized(weight)
    rows, columns = weight.shape
    tiles = -(-rows // LANES)
    form = _Format(0, scaled=DTYPES[weight.dtype.name], group=max(columns, 1))
    codes = np.zeros((tiles, columns, LANES), weight.dtype)
    return _filled("dense", form, weight, None, None, weight.shape, numpy_dtype(call.dtype("weight")), {"codes": codes})


def pack_stack(weight: np.ndarray | QuantWeight, call: Call) -> dict[str, np.ndarray]:
    """A stack `[E, N, K]`, each matrix in tiles of its own, one after the other under one header."""
    if isinstance(weight, QuantWeight):
        return _quantized(weight)
    *lead, rows, columns = weight.shape
    form = _Format(0, scaled=DTYPES[weight.dtype.name], group=max(columns, 1))
    codes = np.zeros((*lead, -(-rows // LANES), columns, LANES), weight.dtype)
    return _filled("dense", form, weight, None, None, weight.shape, weight.dtype, {"codes": codes})


def _quantized(weight: QuantWeight) -> dict[str, np.ndarray]:
    scheme, arrays, (*lead, rows, columns) = weight.scheme, weight.arrays, weight.shape
    scales = minima = None
    if isinstance(scheme, (Affine, Int8)):
        scales, minima = contiguous(arrays["scales"]), arrays.get("biases")
        minima = None if minima is None else contiguous(minima)
        bits, zero = (scheme.bits, 0) if isinstance(scheme, Affine) else (8, AROUND)
        form = _Format(bits, zero, scheme.group_size, DTYPES[scales.dtype.name], minima is not None)
        source = arrays["q"]
    else:
        form, source = FORMATS[scheme.name], arrays["blocks"]
    tiles, cells, groups = -(-rows // LANES), -(-columns // CELL), -(-columns // form.group)
    of_scales = np.uint8 if form.scaled >= TWO_LEVELS else numpy_dtype(list(DTYPES)[form.scaled])
    packed = {
        "codes": np.zeros((*lead, tiles, cells, 64 * form.bits), np.uint8),
        "scales": np.zeros((*lead, tiles, groups, LANES), of_scales),
        "in_floats": np.zeros((*lead, tiles), np.uint8),
    }
    if form.minimums:
        packed["minima"] = np.zeros((*lead, tiles, groups, LANES), of_scales)
    if form.scaled >= TWO_LEVELS:
        packed["supers"] = np.zeros((*lead, tiles, columns // 256, 2, LANES), np.float16)
    if "permutation" in arrays:
        packed["order"] = contiguous(arrays["permutation"])
    return _filled(scheme.name, form, source, scales, minima, weight.shape, numpy_dtype(weight.dtype), packed)


def _filled(
    name: str,
    form: _Format,
    source: np.ndarray,
    scales: np.ndarray | None,
    minima: np.ndarray | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
    packed: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The arrays filled by the library, with their header."""
    numbers = (
        form.bits,
        form.zero,
        form.table,
        form.scaled,
        form.group,
        int(form.minimums),
        0,
        *shape[-2:],
        DTYPES[dtype.name],
    )
    packed["header"] = np.array(numbers, np.int64)
    sources = [contiguous(source), scales, minima]
    if len(shape) == 2:
        run("pack", [*sources, weight_of(packed)], [SOURCES.index(name)])
    for number in range(shape[0] if len(shape) > 2 else 0):
        parts = {n: a if n in ("header", "order") else a[number] for n, a in packed.items()}
        of_matrix = [None if array is None else array[number] for array in sources]
        run("pack", [*of_matrix, weight_of(parts)], [SOURCES.index(name)])
    packed["header"][HEADER.index("sparse")] = int("in_floats" in packed and packed["in_floats"].any())
    return packed
