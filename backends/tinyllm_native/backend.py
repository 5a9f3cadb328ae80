"""The native backend: numpy's arrays, and kernels in C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyllm.plugins import Backend, Run, numpy_dtype
from tinyllm_native.find import find_library
from tinyllm_native.library import library
from tinyllm_native.threads import thread_count


class NativeBackend(Backend):
    """Kernels in C on numpy's arrays. What they do not take runs by reference, in numpy."""

    name = "native"
    device = "cpu"
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    heads_first = True
    reads_pages = True
    by_reference = True
    fast_kv_cache_dtype = "float16"
    xp: Any = np

    def __init__(self) -> None:
        library()

    def from_numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def to_numpy(self, array: Any) -> np.ndarray:
        """A view that cannot be written to: the array may be a weight or a page that others read."""
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

    def link(self, run: Run) -> Callable[..., tuple[Any, ...]] | None:
        """A run as one call of the library."""
        from tinyllm_native.builders import BUILDERS
        from tinyllm_native.link import LinkedStep, Linker
        from tinyllm_native.values import NotLinked

        try:
            return LinkedStep(Linker(run, BUILDERS))
        except NotLinked:
            return None

    def about(self) -> Mapping[str, str]:
        """The level in use, and the threads."""
        return {"level": find_library().level, "threads": str(thread_count())}
