"""MLX as an array library, on the CPU or on Apple's GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import ml_dtypes
import numpy as np

from tinyllm.plugins import Backend, ForkGuard, Run, UnsupportedError
from tinyllm_mlx import mkl

BLAS = mkl.preload()  # before mlx.core, which binds its matrix product when it is loaded

import mlx.core as mx  # noqa: E402

from tinyllm_mlx.arrays import step  # noqa: E402
from tinyllm_mlx.namespace import xp  # noqa: E402

FORKS = ForkGuard("mlx")


class MlxBackend(Backend):
    """MLX on one device. Nothing global stays set: `step_context` selects the device where it matters, and `begin`
    MKL's threads until the step ends."""

    name = "mlx"
    xp = xp
    # no float64: on the CPU exp, erf, sin and cos of it are computed in float32, on the GPU it does not exist
    dtypes = frozenset({"float16", "bfloat16", "float32"})

    def __init__(self, device: str | None = None) -> None:
        FORKS.check()  # to ask for the default device begins its thread
        self.device = device or ("gpu" if mx.metal.is_available() else "cpu")
        self._device = mx.gpu if self.device == "gpu" else mx.cpu
        self.compute_dtype = "float16" if self.device == "gpu" else "float32"
        if self._device != mx.default_device().type:
            self.call_context = self.step_context

    def from_numpy(self, array: np.ndarray) -> mx.array:
        if array.dtype == np.float64:
            raise UnsupportedError("mlx: float64 is not computed in float64 there; cast to float32 first")
        if any(stride < 0 for stride in array.strides):  # which DLPack refuses, of axes of length 1 too
            array = array.copy()
        array = np.ascontiguousarray(array).reshape(array.shape)
        if array.dtype == ml_dtypes.bfloat16:
            return mx.array(array.view(np.uint16)).view(mx.bfloat16)
        return mx.array(array)

    def to_numpy(self, array: mx.array) -> np.ndarray:
        result = (
            np.asarray(array.view(mx.uint16)).view(ml_dtypes.bfloat16)
            if array.dtype == mx.bfloat16
            else np.asarray(array)
        )
        result.flags.writeable = False  # it may be MLX's own memory
        return result

    def dtype_name(self, array: mx.array) -> str:
        return str(array.dtype).removeprefix("mlx.core.").removesuffix("_")

    def zeros(self, shape: tuple[int, ...], dtype: str) -> mx.array:
        with mx.stream(self._device):
            array = mx.zeros(shape, dtype=_dtype(dtype))
        mx.eval(array)
        return array

    def astype(self, array: mx.array, dtype: str) -> mx.array:
        with mx.stream(self._device):
            return array.astype(_dtype(dtype))

    def synchronize(self, *arrays: Any) -> None:
        mx.eval(arrays)

    def link(self, run: Run) -> Callable[..., tuple[Any, ...]] | None:
        """The run compiled. On the CPU MLX would run a C compiler and gain nothing: the time is in the matrix
        products."""
        return mx.compile(lambda *arrays: run(*arrays)) if self.device == "gpu" else None

    def memory(self) -> Mapping[str, int]:
        return {"active": mx.get_active_memory(), "peak": mx.get_peak_memory(), "cache": mx.get_cache_memory()}

    def process_state(self) -> Mapping[str, Any]:
        return {
            "MLX's random generator": str(mx.random.state),
            "MLX's default device": mx.default_device(),
            "MKL's number of threads": mkl.threads(),
        }

    def about(self) -> Mapping[str, str]:
        return {"mlx": metadata.version("mlx"), "device": self.device, "MKL": BLAS, "MKL threads": mkl.threads()}

    def check_process(self) -> None:
        FORKS.check()

    def step_context(self) -> Any:
        return step(self._device)


def _dtype(name: str) -> mx.Dtype:
    return mx.bool_ if name == "bool" else getattr(mx, name)
