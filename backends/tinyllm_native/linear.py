"""linear and embedding, on one packed form of a weight, so that a tied one is kept once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinyllm.plugins import numpy_dtype
from tinyllm_native.arrays import contiguous, int32, of_dtype, rows_of
from tinyllm_native.library import run
from tinyllm_native.records import DTYPES, HEADER, Weight, weight_of

Packed = dict[str, np.ndarray]

EXACT, ROUNDED = 3, 1
"""Bytes of the integers that activations become."""

_STRUCTURE = "structure"


def structure(weight: Packed) -> Weight:
    """A packed weight as the library reads it, made once."""
    made = weight.get(_STRUCTURE)
    if made is None:
        made = weight[_STRUCTURE] = weight_of(weight)  # type: ignore[assignment]
    return made  # type: ignore[return-value]


def sizes_of(weight: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Rows and columns of a packed weight."""
    rows, columns = weight["header"][[HEADER.index("rows"), HEADER.index("columns")]].tolist()
    return rows, columns


def linear(x: np.ndarray, weight: Packed, *, bias: np.ndarray | None = None, limbs: int = EXACT) -> np.ndarray:
    """`x weight^T + bias`, `[*B, N]`, summed in float32 and rounded once to the dtype of x.

    limbs: bytes of the integers that the numbers of x become where the weight is quantized; fewer than 3 round them.
    """
    rows, columns = sizes_of(weight)
    x, bias = contiguous(x), None if bias is None else contiguous(bias)
    y = np.empty((*x.shape[:-1], rows), x.dtype)
    sizes = (rows_of(x), columns, rows, columns * x.itemsize, rows * x.itemsize, of_dtype(x), of_dtype(y), limbs)
    run("linear", [x, structure(weight), bias, y], sizes)
    return y


def linear_rounded(x: np.ndarray, weight: Packed, *, bias: np.ndarray | None = None) -> np.ndarray:
    """`linear` with the numbers of several rows rounded to 8 bits of the largest of 32; one row is exact, as that takes
    no longer."""
    return linear(x, weight, bias=bias, limbs=ROUNDED)


def embedding(ids: np.ndarray, weight: Packed) -> np.ndarray:
    """The rows `[*B, D]` that `ids` name; of a quantized table only those are expanded."""
    _, columns = sizes_of(weight)
    y = np.empty((*np.shape(ids), columns), dtype_of(weight))
    run(
        "embedding",
        [int32(ids), structure(weight), y],
        [y.size // max(columns, 1), columns, columns * y.itemsize, of_dtype(y)],
    )
    return y


def dtype_of(weight: Packed) -> np.dtype:
    """The dtype that a weight's numbers are given in."""
    return numpy_dtype(list(DTYPES)[int(weight["header"][-1])])
