"""Weights laid out as the kernels read them: tiles of 16 rows, cells of 32 columns; see `source/weight.h`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyllm.plugins import Affine, Call, Fp4, Fp8, Int8, Nf4, QuantWeight, Scheme, ZeroPoint, numpy_dtype
from tinyllm_native.arrays import contiguous
from tinyllm_native.library import run
from tinyllm_native.records import DTYPES, HEADER, weight_of

LANES, CELL = 16, 32
TWO_LEVELS, TWO_LEVELS_SIGNED, OF_8_BITS = 3, 4, 5
NON_LINEAR, E2M1, NF4, E4M3 = 1, 2, 3, 4
MINIMUMS, ZEROS, IN_SCALES = 1, 2, 3
AROUND = 128
"""What is added to signed codes and to numbers of tables, so that they are unsigned."""


@dataclass(frozen=True)
class _Format:
    """How a scheme is packed: bits of a code, what code is zero, columns that share a scale; see `records.Weight`."""

    bits: int
    zero: int = 0
    group: int = 32
    scaled: int = DTYPES["float16"]
    minimums: int = 0
    table: int = 0


FORMATS = {
    "q4_0": _Format(4, 8),
    "q4_1": _Format(4, minimums=MINIMUMS),
    "q5_0": _Format(5, 16),
    "q5_1": _Format(5, minimums=MINIMUMS),
    "q8_0": _Format(8, AROUND),
    "q2_k": _Format(2, 0, 16, TWO_LEVELS, minimums=IN_SCALES),
    "q3_k": _Format(3, 4, 16, TWO_LEVELS_SIGNED),
    "q4_k": _Format(4, 0, 32, TWO_LEVELS, minimums=MINIMUMS),
    "q5_k": _Format(5, 0, 32, TWO_LEVELS, minimums=MINIMUMS),
    "q6_k": _Format(6, 32, 16, TWO_LEVELS_SIGNED),
    "iq4_nl": _Format(4, AROUND, table=NON_LINEAR),
    "iq4_xs": _Format(4, AROUND, 32, TWO_LEVELS_SIGNED, table=NON_LINEAR),
    "mxfp4": _Format(4, AROUND, scaled=DTYPES["bfloat16"], table=E2M1),
    "nvfp4": _Format(4, AROUND, 16, OF_8_BITS, table=E2M1),
}
"""GGUF's formats by the names of their schemes, in the order of `source/pack.c`."""

_STREAM = "stream"
"""What all schemes are packed from whose codes are a stream of bits for each row."""
SOURCES = (*FORMATS, _STREAM, "int8", "dense")
SCHEMES = (*FORMATS, "affine", "zero_point", "fp8", "fp4", "nf4", "int8")
"""Names of the schemes whose weights are packed as they are."""


def pack(weight: np.ndarray | QuantWeight, call: Call) -> dict[str, np.ndarray]:
    """A weight `[N, K]` in tiles. A quantized one keeps its bits, a dense one its dtype: that is float32 if it was
    expanded for products of 16-bit numbers."""
    if isinstance(weight, QuantWeight):
        return _quantized(weight)
    return _dense(weight, numpy_dtype(call.dtype("weight")))


def pack_stack(weight: np.ndarray | QuantWeight, call: Call) -> dict[str, np.ndarray]:
    """A stack `[E, N, K]`, each matrix in tiles of its own, one after the other under one header."""
    return _quantized(weight) if isinstance(weight, QuantWeight) else _dense(weight, weight.dtype)


def _dense(weight: np.ndarray, given_in: np.dtype) -> dict[str, np.ndarray]:
    """Floats in the dtype that they have. given_in: the dtype of rows that are looked up."""
    *lead, rows, columns = weight.shape
    form = _Format(0, scaled=DTYPES[weight.dtype.name], group=max(columns, 1))
    codes = np.zeros((*lead, -(-rows // LANES), columns, LANES), weight.dtype)
    return _filled("dense", form, weight, None, None, weight.shape, given_in, {"codes": codes})


def _grouped_format(scheme: Scheme, scaled: int) -> _Format:
    """How a scheme is packed that has its codes and the scales of its groups in arrays of their own."""
    if isinstance(scheme, Affine):
        return _Format(scheme.bits, 0, scheme.block, scaled, MINIMUMS)
    if isinstance(scheme, ZeroPoint):
        zero, minimums = (scheme.middle, 0) if scheme.symmetric else (0, ZEROS)
        return _Format(scheme.bits, zero, scheme.block, scaled, minimums)
    if isinstance(scheme, Fp8):
        return _Format(8, 0, scheme.block, scaled, table=E4M3)
    if isinstance(scheme, Nf4):
        return _Format(4, 0, scheme.block, scaled, table=NF4)
    if isinstance(scheme, Fp4):
        return _Format(4, AROUND, scheme.block, OF_8_BITS, table=E2M1)
    return _Format(8, AROUND, scheme.block, scaled)


def _quantized(weight: QuantWeight) -> dict[str, np.ndarray]:
    scheme, arrays, (*lead, rows, columns) = weight.scheme, weight.arrays, weight.shape
    scales = minima = None
    if scheme.name in DTYPES:
        return _dense(arrays["q"], numpy_dtype(weight.dtype))
    if scheme.name in FORMATS:
        form, source, name = FORMATS[scheme.name], arrays["blocks"], scheme.name
    else:
        scales, minima = contiguous(arrays["scales"]), arrays.get("biases", arrays.get("zeros"))
        minima = None if minima is None else contiguous(minima)
        form = _grouped_format(scheme, DTYPES.get(scales.dtype.name, OF_8_BITS))
        source, name = arrays["q"], "int8" if isinstance(scheme, Int8) else _STREAM
    tiles, cells, groups = -(-rows // LANES), -(-columns // CELL), -(-columns // form.group)
    of_scales = np.dtype(np.uint8) if form.scaled >= TWO_LEVELS else numpy_dtype(list(DTYPES)[form.scaled])
    packed = {
        "codes": np.zeros((*lead, tiles, cells, 64 * form.bits), np.uint8),
        "scales": np.zeros((*lead, tiles, groups, LANES), of_scales),
        "in_floats": np.zeros((*lead, tiles), np.uint8),
    }
    if form.minimums in (MINIMUMS, ZEROS):
        packed["minima"] = np.zeros((*lead, tiles, groups, LANES), np.uint8 if form.minimums == ZEROS else of_scales)
    if form.scaled == OF_8_BITS:  # the numbers of the table are twice those of the codes
        packed["supers"] = np.full((*lead, tiles, LANES), 0.5, np.float32)
        if "factors" in arrays:
            packed["supers"].reshape(*lead, -1)[..., :rows] *= arrays["factors"].reshape(*lead, -1)
    elif form.scaled >= TWO_LEVELS:
        packed["supers"] = np.zeros((*lead, tiles, columns // 256, 2, LANES), np.float16)
    if "permutation" in arrays:
        packed["order"] = contiguous(arrays["permutation"])
    return _filled(name, form, source, scales, minima, weight.shape, numpy_dtype(weight.dtype), packed)


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
        form.minimums,
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
