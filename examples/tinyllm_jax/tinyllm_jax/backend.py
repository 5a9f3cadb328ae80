"""The array library: jax, on the device that it chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tinyllm.plugins import Backend

jax.config.update("jax_enable_x64", True)  # otherwise float64 and int64 silently become 32 bits wide


class JaxBackend(Backend):
    """jax.numpy follows the array API standard, so that it is its own `xp`."""

    name = "jax"
    dtypes = frozenset({"float32", "bfloat16", "float16", "float64"})
    xp = jnp

    def from_numpy(self, array: np.ndarray) -> Any:
        """A copy: jax arrays never change, numpy's might. (`jnp.array` copies too, and compiles a program for it.)"""
        return jax.device_put(array, may_alias=False)

    def to_numpy(self, array: Any) -> np.ndarray:
        """A view where jax can give one; waits for the result, and jax marks it read-only."""
        return np.asarray(array)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def synchronize(self, *arrays: Any) -> None:
        jax.block_until_ready(arrays)

    def about(self) -> Mapping[str, str]:
        return {"jax": jax.__version__, "platform": jax.default_backend()}
