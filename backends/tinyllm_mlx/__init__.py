"""The MLX backend: every op from array and matrix calls alone (`scratch`), and kernels on MLX's ready-made operators
(`fast`)."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from tinyllm.plugins import Backend, BackendPlugin, Kernel, Probe, hookimpl, known_scheme
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
        return Probe(True, f"mlx {version} on Metal", score=40, devices=("gpu", "cpu"))
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
    "linear": "linear",
    "embedding": "linear",
    "silu": "activations",
    "gelu": "activations",
    "swiglu": "activations",
    "add": "activations",
    "rms_norm": "rms_norm",
    "rope": "rope",
    "rope_angles": "rope",
    "rope_rotate": "rope",
    "sdpa": "attention",
    "gqa": "attention",
    "mha": "mha",
    "kv_append": "paged_attention",
    "paged_attention": "paged_attention",
    "quantize": "quantized",
    "dequantize": "quantized",
    "quantized_linear": "quantized",
    "quantized_embedding": "quantized",
    "split": "views",
    "split_heads": "views",
    "merge_heads": "views",
}
"""The module of each op's `scratch` kernel."""

PREPARE = {
    "linear": "linear:prepare",
    "embedding": "linear:prepare",
    "quantized_linear": "quantized:prepare",
    "quantized_embedding": "quantized:prepare",
}
SUPPORTS = dict.fromkeys(("dequantize", "quantized_linear", "quantized_embedding"), known_scheme)
FAST = {
    "softmax": supports.softmax,
    "rms_norm": supports.rms_norm,
    "rope": supports.rotation,
    "sdpa": supports.attention,
    "gqa": supports.attention,
}
"""Ops with a kernel on `mx.fast`, and what it takes."""
EAGER = ("kv_append", "paged_attention")
"""Ops that read host values, which a compiled region would freeze."""


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`scratch` comes first, but for quantized weights on a GPU, which only MLX's own operator reads as they are."""
    packed = 10 if _on_apple() else -10
    kernels = [
        Kernel(
            "mlx",
            op,
            "scratch",
            f"tinyllm_mlx.{module}:{op}",
            SUPPORTS.get(op),
            traceable=op not in EAGER,
            prepare=f"tinyllm_mlx.{PREPARE[op]}" if op in PREPARE else None,
        )
        for op, module in SCRATCH.items()
    ]
    kernels += [Kernel("mlx", op, "fast", f"tinyllm_mlx.fast:{op}", check, -10) for op, check in FAST.items()]
    kernels += [
        Kernel(
            "mlx",
            op,
            "fast",
            f"tinyllm_mlx.quantized:{op}_fast",
            supports.quantized_product,
            packed,
            prepare="tinyllm_mlx.quantized:prepare_fast",
        )
        for op in ("quantized_linear", "quantized_embedding")
    ]
    return kernels
