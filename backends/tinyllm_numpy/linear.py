"""linear and embedding, which read one packed form of a dense weight, so that a tied one is kept once; dequantize."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyllm.plugins import Call, QuantWeight, numpy_dtype
from tinyllm_numpy.widen import widen


@dataclass(frozen=True)
class FloatWeight:
    """A weight ready for BLAS, and the dtype it came in."""

    rows: np.ndarray
    dtype: np.dtype


def prepare(weight: np.ndarray, call: Call) -> FloatWeight:
    """16-bit weights are widened once, and not at every product."""
    return FloatWeight(widen(weight), numpy_dtype(call.dtype("weight")))


def linear(x: np.ndarray, weight: FloatWeight, *, bias: np.ndarray | None = None) -> np.ndarray:
    """`x weight^T + bias`, `[*B, N]`, by one product for all leading axes: summed in float32 or float64 and rounded
    once to the dtype of x."""
    wide, rows = widen(x), weight.rows
    y: np.ndarray = wide.reshape(-1, wide.shape[-1]) @ rows.T if wide.ndim != 2 and wide.size else wide @ rows.T
    if bias is not None:
        y += widen(bias)
    return y.reshape(*x.shape[:-1], rows.shape[0]).astype(x.dtype, copy=False)


def embedding(ids: np.ndarray, weight: FloatWeight) -> np.ndarray:
    """The rows `[*B, D]` that `ids` name, bit by bit."""
    rows: np.ndarray = weight.rows[ids]
    return rows.astype(weight.dtype, copy=False)


def embedding_of_quantized(ids: np.ndarray, weight: QuantWeight) -> np.ndarray:
    """The rows `[*B, D]` that `ids` name, of a table of any scheme: only those are expanded, and the table stays where
    it is, in the checkpoint's file if need be."""
    ids = np.asarray(ids)
    return dequantize(weight.rows(lambda array: array[ids], ids.shape))


def dequantize(weight: QuantWeight) -> np.ndarray:
    """The matrix `[*B, N, K]` that a weight of any scheme stands for, by the scheme's formula in float32 or float64,
    rounded once to the dtype that the weight says."""
    wide = np.float64 if weight.dtype == "float64" else np.float32
    numbers: np.ndarray = weight.scheme.dequantize(np, weight, wide)
    return numbers.astype(numpy_dtype(weight.dtype), copy=False)
