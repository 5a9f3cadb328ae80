"""Quantised weights: `dense` unpacks them once to float32, `packed` at every call."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.packing import dequantized
from tinyllm.quant_weight import QuantWeight
from tinyllm_numpy.linear import matmul_rows
from tinyllm_numpy.widen import widen


def unpacked(weight: QuantWeight, dtype: Any = np.float32) -> np.ndarray:
    """The matrix that a quantised weight stands for, computed in float32 or wider."""
    arrays = {name: array if array.dtype.kind in "iu" else array.astype(dtype) for name, array in weight.arrays.items()}
    matrix: np.ndarray = dequantized(np, weight.with_arrays(arrays))
    return matrix


def gathered(weight: QuantWeight, ids: np.ndarray) -> QuantWeight:
    """The rows of some ids `[n]`, still packed."""
    arrays = {name: array if name == "permutation" else array[ids] for name, array in weight.arrays.items()}
    return QuantWeight(weight.scheme, arrays, weight.bits, weight.group_size, (len(ids), weight.shape[1]))


def prepare(weight: QuantWeight, uses: tuple[str, ...]) -> np.ndarray | QuantWeight:
    """A matrix where there are products with it; a table that is only looked up stays packed."""
    return unpacked(weight) if "quantized_linear.weight" in uses else weight


def quantized_linear(x: np.ndarray, weight: np.ndarray, *, bias: np.ndarray | None = None) -> np.ndarray:
    return matmul_rows(x, weight, bias)


def quantized_linear_packed(x: np.ndarray, weight: QuantWeight, *, bias: np.ndarray | None = None) -> np.ndarray:
    return matmul_rows(x, unpacked(weight, widen(x).dtype), bias)


def quantized_embedding(ids: np.ndarray, weight: np.ndarray | QuantWeight, *, dtype: str = "float32") -> np.ndarray:
    if isinstance(weight, QuantWeight):
        return quantized_embedding_packed(ids, weight, dtype=dtype)
    return _as(weight[ids], dtype)


def quantized_embedding_packed(ids: np.ndarray, weight: QuantWeight, *, dtype: str = "float32") -> np.ndarray:
    rows = unpacked(gathered(weight, np.reshape(ids, -1)))
    return _as(rows.reshape(*np.shape(ids), weight.shape[1]), dtype)


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    import ml_dtypes

    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, copy=False)
