"""Ops on rows and elements."""

from __future__ import annotations

import numpy as np

from tinyllm_native.arrays import contiguous, of_dtype, rows_of
from tinyllm_native.library import run


def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum `[*B, D]` of x and y, whose leading axes broadcast."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    x, y = (contiguous(np.broadcast_to(a, shape)) for a in (x, y))
    z = np.empty(shape, x.dtype)
    run("add", [x, y, z], [rows_of(z), shape[-1], *(a.itemsize * shape[-1] for a in (x, y, z)), of_dtype(x)])
    return z


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """`silu(gate) * up`, `[*B, D]`, rounded once."""
    shape = np.broadcast_shapes(gate.shape, up.shape)
    gate, up = (contiguous(np.broadcast_to(a, shape)) for a in (gate, up))
    y = np.empty(shape, gate.dtype)
    run("swiglu", [gate, up, y], [rows_of(y), shape[-1], *(a.itemsize * shape[-1] for a in (gate, up, y)), of_dtype(y)])
    return y


def rms_norm(x: np.ndarray, weight: np.ndarray, *, eps: float = 1e-6) -> np.ndarray:
    """`x / sqrt(mean(x^2) + eps) * weight`, `[*B, D]`, rounded once."""
    x, y = contiguous(x), np.empty(x.shape, x.dtype)
    stride = x.itemsize * x.shape[-1]
    run("rms_norm", [x, contiguous(weight), y], [rows_of(x), x.shape[-1], stride, stride, of_dtype(x)], [eps])
    return y


def softmax(x: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """Weights `exp(x - m) / sum exp(x - m)` along an axis, m being the largest."""
    rows = contiguous(np.moveaxis(x, axis, -1))
    y = np.empty(rows.shape, x.dtype)
    stride = x.itemsize * rows.shape[-1]
    run("softmax", [rows, y], [rows_of(rows), rows.shape[-1], stride, stride, of_dtype(x)])
    return np.moveaxis(y, -1, axis)
