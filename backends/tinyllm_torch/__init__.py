"""The torch backend: every op on PyTorch's own operators, on a CPU or a GPU."""

from __future__ import annotations

import ctypes.util
import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path

from tinyllm.plugins import Backend, BackendPlugin, Kernel, Oracle, Probe, hookimpl, known_scheme
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
    return Probe(True, f"torch {version}".strip(), score=30, devices=devices)


def _nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia").exists() or ctypes.util.find_library("cuda") is not None


def _load(device: str | None) -> Backend:
    from tinyllm_torch.backend import load

    return load(device)


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """PyTorch."""
    return [BackendPlugin("torch", _probe, _load, array_types=("torch.Tensor",), install=INSTALL)]


PLAIN = {
    "softmax": "softmax",
    "embedding": "embedding",
    "silu": "activations",
    "gelu": "activations",
    "swiglu": "activations",
    "add": "activations",
    "rms_norm": "rms_norm",
    "rope": "rope",
    "rope_angles": "rope",
    "rope_rotate": "rope",
    "mha": "mha",
    "kv_append": "paged_attention",
    "paged_attention": "paged_attention",
    "quantize": "quantized",
    "dequantize": "quantized",
    "quantized_embedding": "quantized",
    "split": "views",
    "split_heads": "views",
    "merge_heads": "views",
}
"""The module of each op that has one kernel, `plain`."""

SUPPORTS = {"dequantize": known_scheme, "quantized_embedding": known_scheme}


def _kernel(
    op: str, name: str, path: str, check: supports.Check | None, priority: int, prepare: str = "", exact: bool = True
) -> Kernel:
    packs = f"tinyllm_torch.{prepare}" if prepare else None
    return Kernel("torch", op, name, f"tinyllm_torch.{path}", check, priority, packs, exact=exact)


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`packed` and `float16` lay out a weight anew for oneDNN and fbgemm; `fused` is PyTorch's attention operator."""
    return [
        *(
            _kernel(op, "plain", f"{module}:{op}", SUPPORTS.get(op), 0, "linear:prepare" if op == "embedding" else "")
            for op, module in PLAIN.items()
        ),
        *(
            _kernel(op, name, f"attention:{op}_{name}", check, priority)
            for op in ("sdpa", "gqa")
            for name, check, priority in (("fused", supports.fused, 10), ("scratch", None, 0))
        ),
        _kernel(
            "linear", "float16", "linear:linear_float16", supports.float16, 20, "linear:prepare_float16", exact=False
        ),
        _kernel("linear", "packed", "linear:linear", supports.packed, 10, "linear:prepare"),
        _kernel("linear", "plain", "linear:linear_plain", None, 0),
        _kernel(
            "quantized_linear",
            "float16",
            "linear:linear_float16",
            supports.float16,
            20,
            "quantized:prepare_float16",
            exact=False,
        ),
        _kernel("quantized_linear", "packed", "linear:linear", supports.packed, 10, "quantized:prepare"),
        *(
            _kernel(
                "quantized_linear",
                f"dense_{dtype}",
                "linear:linear_plain",
                supports.dense(dtype),
                5,
                f"quantized:prepare_dense_{dtype}",
            )
            for dtype in ("float16", "bfloat16", "float32")
        ),
        _kernel("quantized_linear", "scratch", "quantized:quantized_linear", known_scheme, 0),
    ]


@hookimpl
def tinyllm_oracles() -> list[Oracle]:
    """PyTorch's own functions in float64, as a judge of everybody's kernels."""
    return [
        Oracle("torch", "tinyllm_torch.oracle.answers:reason", "tinyllm_torch.oracle.answers:answer", "torch", INSTALL)
    ]
