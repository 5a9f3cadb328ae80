"""The MLX backend: every op from array and matrix calls alone (`scratch`), and kernels on MLX's ready-made operators
(`fast`)."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

from tinyllm.plugins import DENSE, Backend, BackendPlugin, Declaration, Kernel, Probe, RoundedSteps, Supports, hookimpl
from tinyllm_mlx import supports

INSTALL = "pip install 'tinyllm[mlx]'"


def _on_apple() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _probe() -> Probe:
    try:
        version = metadata.version("mlx")
        if sys.platform == "linux" and not any(f.name.startswith("libmlx.so") for f in _files()):
            return Probe(False, f"mlx {version} is there without a device; install mlx[cpu]")
    except metadata.PackageNotFoundError:
        return Probe(False, "mlx is not installed")
    if _on_apple():
        return Probe(True, f"mlx {version} on Metal", score=60, devices=("gpu", "cpu"))
    return Probe(True, f"mlx {version} on the CPU", score=20)


def _files() -> list[metadata.PackagePath]:
    """Files of the packages that may carry MLX's library."""
    found = []
    for name in ("mlx", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13"):
        try:
            found += metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
    return found


def _load(device: str | None) -> Backend:
    from tinyllm_mlx.backend import MlxBackend

    return MlxBackend(device)


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """MLX, on Apple's GPU or on a CPU."""
    return [BackendPlugin("mlx", _probe, _load, array_types=("mlx.core.array",), install=INSTALL)]


SCRATCH = {
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
    "sdpa": "attention",
    "gqa": "attention",
    "quantize": "quantized",
    "split": "views",
    "split_heads": "views",
    "merge_heads": "views",
    "moe_router": "moe",
}
"""The module of each op's `scratch` kernel, where that takes dense arrays alone."""

FAST = {
    "softmax": supports.softmax,
    "rms_norm": supports.rms_norm,
    "rope": supports.rotation,
    "sdpa": supports.attention,
    "gqa": supports.attention,
}
"""Ops with a kernel on `mx.fast`, and what it takes."""
HOST = {
    "kv_append": ("slots",),
    "paged_attention": ("q_start", "kv_len", "block_table"),
    "gqa": ("kv_lengths",),
    "moe_experts": ("experts",),
    "short_conv": ("q_start", "kv_len", "state_rows"),
    "gated_delta": ("q_start", "kv_len", "state_rows"),
}
"""Per op the indices that its kernels read as numpy arrays."""
QUANTIZED = ("affine", "int8")
"""Schemes whose weights MLX's kernels read."""


def _kernel(op: str, name: str, path: str, supports: Supports | None = None, priority: int = 0, **more: Any) -> Kernel:
    host = () if name == "fast" else HOST.get(op, ())
    return Kernel("mlx", op, name, f"tinyllm_mlx.{path}", supports, priority, host=host, spec_version=4, **more)


@hookimpl
def tinyllm_declarations() -> list[Declaration]:
    """What MLX's own operators do in 16 bits."""
    reason = "mx.fast rounds to the 16 bits of its inputs between its steps"
    return [RoundedSteps("mlx", op, reason, kernel="fast") for op in ("rms_norm", "rope", "sdpa", "gqa")]


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`scratch` comes first, but for quantized weights on a GPU, which only MLX's own operator reads as they are."""
    packed = 10 if _on_apple() else -10
    prepare, prepare_fast = "tinyllm_mlx.linear:prepare", "tinyllm_mlx.quantized:prepare_fast"
    fast: dict[str, Any] = {"prepare": prepare_fast, "schemes": QUANTIZED}
    product = supports.quantized_product
    return [
        *(_kernel(op, "scratch", f"{module}:{op}") for op, module in SCRATCH.items()),
        # they read host values, which a compiled run would freeze
        *(_kernel(op, "scratch", f"paged_attention:{op}", traceable=False) for op in ("kv_append", "paged_attention")),
        *(_kernel(op, "scratch", f"recurrent:{op}", traceable=False) for op in ("short_conv", "gated_delta")),
        *(_kernel(op, "fast", f"fast:{op}", check, -10) for op, check in FAST.items()),
        _kernel("linear", "scratch", "linear:linear", prepare=prepare),
        _kernel("linear", "fast", "quantized:linear_fast", product, packed, **fast),
        _kernel("embedding", "scratch", "linear:embedding", prepare=prepare, schemes=(DENSE, *QUANTIZED)),
        # of int8 the packed form rounds where scales are float32: tables of it stay with `scratch`
        _kernel("embedding", "fast", "quantized:embedding_fast", product, packed, **fast | {"schemes": ("affine",)}),
        _kernel("moe_experts", "scratch", "moe:moe_experts", schemes=(DENSE, *QUANTIZED), traceable=False),
        _kernel("dequantize", "scratch", "quantized:dequantize", schemes=QUANTIZED),
    ]
