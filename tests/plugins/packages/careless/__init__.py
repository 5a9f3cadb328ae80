"""A backend whose kernels, in one case each, write to memory that is not theirs."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tinyllm.plugins import Backend, BackendPlugin, Kernel, Probe, hookimpl

tinyllm_spec_version = 4


class Careless(Backend):
    """numpy by another name."""

    name = "careless"
    xp = np

    def from_numpy(self, array: np.ndarray) -> Any:
        return array

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)


def _wide(x: Any) -> Any:
    return x.astype(np.result_type(x.dtype, np.float32))


def softmax(x: Any, *, axis: int = -1) -> Any:
    """Fills a vector more than its output has, in one small case."""
    wide = _wide(x)
    e = np.exp(wide - wide.max(axis, keepdims=True, initial=-np.inf))
    y = (e / e.sum(axis, keepdims=True)).astype(x.dtype)
    if x.shape == (3, 7):
        ctypes.memset(y.ctypes.data + y.nbytes, 0, 64)
    return y


def silu(x: Any) -> Any:
    """Begins a number too early, in one case."""
    with np.errstate(over="ignore"):
        y = np.asarray((_wide(x) / (1 + np.exp(-_wide(x)))).astype(x.dtype))
    if x.shape == (5,):
        ctypes.memset(y.ctypes.data - 4, 0, 4)
    return y


def add(x: Any, y: Any) -> Any:
    """Reads where nothing is, in one case."""
    if x.shape == (5,):
        ctypes.string_at(8, 4)
    return np.asarray(x + y)


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    return [BackendPlugin("careless", lambda: Probe(True, "for tests"), lambda device: Careless())]


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    return [Kernel("careless", f.__name__, "own", f"careless:{f.__name__}") for f in (softmax, silu, add)]
