"""The jax backend. tinyllm finds this module by its entry point and calls the hooks in it; jax is imported when it is
used."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tinyllm.plugins import DENSE, Backend, BackendPlugin, Kernel, Probe, hookimpl

tinyllm_spec_version = 4
QUANTIZED = ("affine", "int8")
"""Schemes whose weights are read as they are; many others can be held as these."""


def _probe() -> Probe:
    """Whether it can run here."""
    return Probe(True, "jax is installed") if find_spec("jax") else Probe(False, "jax is not installed")


def _load(device: str | None) -> Backend:
    from tinyllm_jax.backend import JaxBackend

    return JaxBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """The backend. jax.Array is what users see; `jaxlib._jax.ArrayImpl` is the class that its arrays have."""
    types = ("jaxlib._jax.ArrayImpl",)
    return [BackendPlugin("jax", _probe, _load, array_types=types, install="pip install tinyllm-jax")]


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """The ops that this backend computes itself; `mha` runs by them, and all others by their reference."""
    return [
        *(own(op, "layer") for op in ("softmax", "linear", "rms_norm", "silu", "swiglu")),
        *(own(op, "rope") for op in ("rope", "rope_angles", "rope_rotate")),
        *(own(op, "attention") for op in ("sdpa", "gqa", "kv_append")),
        own("paged_attention", "attention", host=("q_start",)),  # its differences become shapes
        own("embedding", "quantized", schemes=(DENSE, *QUANTIZED)),
        own("dequantize", "quantized", schemes=QUANTIZED),  # by it `linear` gets its quantized weights, too
        own("quantize", "quantized"),
    ]


def own(op: str, module: str, **more: Any) -> Kernel:
    """A kernel named `own`: the function of the op's name in one of our modules."""
    return Kernel("jax", op, "own", f"tinyllm_jax.{module}:{op}", **more)
