"""The ops on one backend, as an op that is composed of others gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tinyllm.plugins.backend import Backend

Runs = Callable[[tuple[Any, ...], dict[str, Any], str | None], Any]


class Dispatches(Protocol):
    """Who runs op calls: a `Registry`."""

    def dispatcher(self, op: str) -> Runs:
        """What runs calls of an op: positional arguments, keyword arguments, and the backend."""


class BackendOps:
    """`ops.linear(x, weight)` on the backend's arrays. `xp` is its namespace: for views, and for what is no op."""

    def __init__(self, registry: Dispatches, backend: Backend) -> None:
        self.backend = backend
        self.xp = backend.xp
        self._dispatcher = registry.dispatcher
        self._place = f"{backend.name}:{backend.device}"

    def __getattr__(self, op: str) -> Callable[..., Any]:
        run = self._dispatcher(op)
        return lambda *args, **kwargs: run(args, kwargs, self._place)

    def array(self, values: np.ndarray) -> Any:
        """A numpy array as a native one."""
        return self.backend.from_numpy(values)

    def astype(self, array: Any, dtype: str) -> Any:
        """The same numbers in another dtype."""
        return array if self.backend.dtype_name(array) == dtype else self.backend.astype(array, dtype)

    def dtype(self, array: Any) -> str:
        """The dtype of an array, as numpy names it."""
        return self.backend.dtype_name(array)
