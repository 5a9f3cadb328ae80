"""numpy as an array library: arrays are numpy's own, so nothing is ever converted."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.plugins import Backend, numpy_dtype


class NumpyBackend(Backend):
    """numpy on the CPU."""

    name = "numpy"
    heads_first = True
    device = "cpu"
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    xp: Any = np

    def from_numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_numpy(self, array: Any) -> np.ndarray:
        """A view that cannot be written to, as of every backend: the array may be a weight or a page that others
        read."""
        view = np.asarray(array).view()
        view.flags.writeable = False
        return view

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.zeros(shape, numpy_dtype(dtype))

    def astype(self, array: Any, dtype: str) -> np.ndarray:
        """The array itself where it has that dtype: arrays are not written to, so that nobody sees it."""
        return np.asarray(array).astype(numpy_dtype(dtype), copy=False)

    def synchronize(self, *arrays: Any) -> None:
        """numpy computes at once."""
