"""PyTorch as an array library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch

from tinyllm.plugins import Backend, BackendUnavailableError, ForkGuard
from tinyllm_torch.namespace import Namespace

NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


FORKS = ForkGuard("torch")


class TorchBackend(Backend):
    """PyTorch on a CPU, an NVIDIA GPU or Apple's; without the name of a device on the best there is."""

    name = "torch"
    heads_first = True

    def __init__(self, device: str | None = None) -> None:
        self.device = device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailableError(f"backend 'torch': torch {torch.__version__} finds no CUDA device")
        if device == "mps" and not torch.backends.mps.is_available():
            raise BackendUnavailableError(f"backend 'torch': torch {torch.__version__} finds no Metal device")
        wide = () if device == "mps" else ("float64",)
        self.dtypes = frozenset({"float16", "bfloat16", "float32", *wide})
        self.compute_dtype = "bfloat16" if device == "cuda" else "float32"
        self.xp = Namespace(device)

    def from_numpy(self, array: np.ndarray) -> torch.Tensor:
        """Shares memory on the CPU. A read-only array's tensor says so, for the kernel that writes to what it
        consumes."""
        if array.dtype == ml_dtypes.bfloat16:
            shared = self.from_numpy(array.view(np.int16))
            return _marked(shared.view(torch.bfloat16), getattr(shared, READ_ONLY, False))
        if not array.dtype.isnative or any(s < 0 or s % array.itemsize for s in array.strides):
            array = np.array(array, array.dtype.newbyteorder("="), order="C")
        shared = torch.from_numpy(array if array.flags.writeable else np.asarray(_Alias(array)))
        return _marked(shared, not array.flags.writeable) if self.device == "cpu" else shared.to(self.device)

    def to_numpy(self, array: torch.Tensor) -> np.ndarray:
        host = array.detach().cpu()
        view: np.ndarray = (
            host.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if host.dtype is torch.bfloat16 else host.numpy()
        )
        view.flags.writeable = False
        return view

    def dtype_name(self, array: torch.Tensor) -> str:
        return NAMES[array.dtype]

    def device_of(self, array: torch.Tensor) -> str:
        return array.device.type

    def zeros(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=self.device)

    def astype(self, array: torch.Tensor, dtype: str) -> torch.Tensor:
        return array.to(getattr(torch, dtype))

    def synchronize(self, *arrays: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        elif self.device == "mps":
            torch.mps.synchronize()

    def check_process(self) -> None:
        if self.device != "cpu" or torch.get_num_threads() > 1:  # one thread on a CPU needs no others
            FORKS.check()

    def step_context(self) -> Any:
        """No autograd, no version counters."""
        return torch.inference_mode()

    def memory(self) -> Mapping[str, int]:
        if self.device != "cuda":
            return {}
        return {"active": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}

    def process_state(self) -> Mapping[str, Any]:
        return {
            "torch's random generator": torch.get_rng_state().numpy().tobytes(),
            "torch's number of threads": torch.get_num_threads(),
            "torch's default dtype": torch.get_default_dtype(),
            "torch's default device": torch.get_default_device(),
            "torch's recording of gradients": torch.is_grad_enabled(),
            "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "torch's precision of products": torch.get_float32_matmul_precision(),
        }

    def about(self) -> Mapping[str, str]:
        found = {
            "torch": str(torch.__version__),
            "threads": str(torch.get_num_threads()),
            "CPU capability": torch.backends.cpu.get_cpu_capability(),
            "BLAS": "MKL" if torch.backends.mkl.is_available() else "not MKL",  # type: ignore[no-untyped-call]
            "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",  # type: ignore[no-untyped-call]
            "quantized engine": torch.backends.quantized.engine,
        }
        return found | ({"GPU": torch.cuda.get_device_name()} if self.device == "cuda" else {})


READ_ONLY = "tinyllm_read_only"
"""The attribute of a tensor on memory that must not be written to."""


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it where it lies on a read-only numpy array: what may be written to."""
    return tensor.clone() if hasattr(tensor, READ_ONLY) else tensor


def _marked(tensor: torch.Tensor, read_only: bool) -> torch.Tensor:
    if read_only:
        setattr(tensor, READ_ONLY, True)
    return tensor


class _Alias:
    """The memory of a read-only array, shown as writeable: torch has no read-only tensors and warns."""

    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}
        self.owner = array
