"""Ops on rows."""

from __future__ import annotations

import numpy as np

from tinyllm_native.arrays import contiguous, of_dtype, rows_of
from tinyllm_native.library import run


def rms_norm(x: np.ndarray, weight: np.ndarray, *, eps: float = 1e-6, offset: float = 0.0) -> np.ndarray:
    """`x / sqrt(mean(x^2) + eps) * (offset + weight)`, `[*B, D]`, rounded once."""
    x, y = contiguous(x), np.empty(x.shape, x.dtype)
    run("rms_norm", [x, contiguous(weight), y], _sizes(x), [eps, offset])
    return y


def layer_norm(x: np.ndarray, weight: np.ndarray, *, bias: np.ndarray | None = None, eps: float = 1e-5) -> np.ndarray:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, `[*B, D]`, rounded once."""
    x, y = contiguous(x), np.empty(x.shape, x.dtype)
    arrays = [x, contiguous(weight), None if bias is None else contiguous(bias), y]
    run("layer_norm", arrays, _sizes(x), [eps])
    return y


def _sizes(x: np.ndarray) -> list[int]:
    """Of a norm's rows, each by itself."""
    stride = x.itemsize * x.shape[-1]
    return [rows_of(x), x.shape[-1], stride, stride, of_dtype(x), 1]


def softmax(x: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Weights `exp(x - m) / sum exp(x - m)` along an axis, m being the largest."""
    rows = contiguous(np.moveaxis(x, axis, -1))
    y = np.empty(rows.shape, x.dtype)
    stride = x.itemsize * rows.shape[-1]
    run("softmax", [rows, y], [rows_of(rows), rows.shape[-1], stride, stride, of_dtype(x)])
    return np.moveaxis(y, -1, axis)
