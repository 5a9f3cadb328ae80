"""numpy as an array library: arrays are numpy's own, so nothing is ever converted."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tinyllm.backend import Backend


class NumpyBackend(Backend):
    """numpy on the CPU."""

    name = "numpy"
    device = "cpu"
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    xp: Any = np

    def from_numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.zeros(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)

    def astype(self, array: Any, dtype: str) -> np.ndarray:
        """The array itself where it has that dtype: arrays are not written to, so that nobody sees it."""
        return np.asarray(array).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, copy=False)

    def synchronize(self, *arrays: Any) -> None:
        """numpy computes at once."""
