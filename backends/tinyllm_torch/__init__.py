"""The torch backend: every op on PyTorch's own operators, on a CPU or a GPU."""

from __future__ import annotations

import ctypes.util
import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tinyllm.plugins import DENSE, Backend, BackendPlugin, Kernel, Oracle, Probe, Supports, hookimpl
from tinyllm_torch import supports

INSTALL = "pip install 'tinyllm[torch]'"


def _probe() -> Probe:
    if importlib.util.find_spec("torch") is None:
        return Probe(False, "torch is not installed")
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        version = ""
    devices: tuple[str, ...] = ("cpu",)
    if not version.endswith("+cpu") and _nvidia_driver():
        devices = ("cuda", "cpu")
    elif sys.platform == "darwin" and platform.machine() == "arm64":
        devices = ("cpu", "mps")
    return Probe(True, f"torch {version}".strip(), score=30 if devices[0] == "cpu" else 60, devices=devices)


def _nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia").exists() or ctypes.util.find_library("cuda") is not None


def _load(device: str | None) -> Backend:
    from tinyllm_torch.backend import TorchBackend

    return TorchBackend(device)


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """PyTorch."""
    join = "tinyllm_torch.parallel:join"
    return [BackendPlugin("torch", _probe, _load, array_types=("torch.Tensor",), install=INSTALL, join=join)]


PLAIN = {
    "softmax": "softmax",
    "silu": "activations",
    "gelu": "activations",
    "swiglu": "activations",
    "geglu": "activations",
    "sigmoid": "activations",
    "add": "arithmetic",
    "mul": "arithmetic",
    "scale": "arithmetic",
    "softcap": "arithmetic",
    "rms_norm": "norms",
    "layer_norm": "norms",
    "rope": "rope",
    "rope_angles": "rope",
    "rope_rotate": "rope",
    "quantize": "quantized",
    "split": "views",
    "split_heads": "views",
    "merge_heads": "views",
    "moe_router": "moe",
}
"""The module of each op that has one kernel, `plain`, which takes every call."""

QUANTIZED = ("affine", "int8")
"""Schemes whose weights torch's kernels read."""
HOST = {
    "kv_append": ("slots",),
    "paged_attention": ("q_start", "kv_len", "block_table"),
    "gqa": ("kv_lengths",),
    "moe_experts": ("experts",),
    "short_conv": ("q_start", "kv_len", "state_rows"),
    "gated_delta": ("q_start", "kv_len", "state_rows"),
}
"""Per op the indices that its kernels read as numpy arrays."""


def _kernel(op: str, name: str, path: str, supports: Supports | None = None, priority: int = 0, **more: Any) -> Kernel:
    host = HOST.get(op, ())
    return Kernel("torch", op, name, f"tinyllm_torch.{path}", supports, priority, host=host, spec_version=4, **more)


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`packed` and `float16` lay out a weight anew for oneDNN and fbgemm; `fused` is PyTorch's attention operator."""
    packed, float16 = "tinyllm_torch.linear:pack", "tinyllm_torch.linear:pack_float16"
    as_it_is = "tinyllm_torch.linear:as_it_is"
    return [
        *(_kernel(op, "plain", f"{module}:{op}") for op, module in PLAIN.items()),
        *(_kernel(op, "plain", f"paged_attention:{op}") for op in ("kv_append", "paged_attention")),
        *(_kernel(op, "plain", f"recurrent:{op}") for op in ("short_conv", "gated_delta")),
        *(_kernel(op, "fused", f"attention:{op}_fused", supports.fused, 10) for op in ("sdpa", "gqa")),
        *(_kernel(op, "scratch", f"attention:{op}_scratch") for op in ("sdpa", "gqa")),
        _kernel("linear", "float16", "linear:linear_float16", supports.float16, 20, prepare=float16, exact=False),
        _kernel("linear", "packed", "linear:linear_packed", supports.packed, 10, prepare=packed),
        _kernel("linear", "plain", "linear:linear", prepare=as_it_is),
        _kernel("embedding", "plain", "linear:embedding", prepare=as_it_is, schemes=(DENSE, *QUANTIZED)),
        _kernel("moe_experts", "plain", "moe:moe_experts", schemes=(DENSE, *QUANTIZED), traceable=False),
        _kernel("dequantize", "plain", "quantized:dequantize", schemes=QUANTIZED),
    ]


@hookimpl
def tinyllm_oracles() -> list[Oracle]:
    """PyTorch's own functions in float64, as a judge of everybody's kernels."""
    return [
        Oracle("torch", "tinyllm_torch.oracle.answers:reason", "tinyllm_torch.oracle.answers:answer", "torch", INSTALL)
    ]
