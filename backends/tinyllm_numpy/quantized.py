"""Quantized weights: `dense` unpacks them once to float32, `packed` at every call."""

from __future__ import annotations

import numpy as np

from tinyllm.catalogue.quantize.packing import unpacked
from tinyllm.plugins import QuantWeight, numpy_dtype
from tinyllm_numpy.linear import matmul_rows
from tinyllm_numpy.widen import widen


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
    rows: np.ndarray = weight[ids]
    return rows.astype(numpy_dtype(dtype), copy=False)


def quantized_embedding_packed(ids: np.ndarray, weight: QuantWeight, *, dtype: str = "float32") -> np.ndarray:
    return unpacked(weight.rows(lambda array: array[ids], np.shape(ids))).astype(numpy_dtype(dtype), copy=False)
