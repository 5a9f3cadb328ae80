"""array_api_strict as an array library."""

from __future__ import annotations

from typing import Any

import array_api_strict
import numpy as np

from tinyllm.plugins import Backend


class StrictBackend(Backend):
    """float32 and float64 on the CPU; its namespace is the array API standard's to the letter."""

    name = "strict"
    dtypes = frozenset({"float32", "float64"})
    xp: Any = array_api_strict

    def from_numpy(self, array: np.ndarray) -> Any:
        """Floats of 16 bits, which the standard lacks, as float32: the scales of quantized weights, to the last bit."""
        lacking = array.dtype.name in ("float16", "bfloat16")
        return array_api_strict.asarray(array.astype(np.float32) if lacking else array)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype).rpartition(".")[2]


def softmax(x: Any, *, axis: int = -1) -> Any:
    xp = array_api_strict
    if x.shape[axis] == 0:
        return x
    weights = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return weights / xp.sum(weights, axis=axis, keepdims=True)
