"""The jax backend. tinyllm finds this module by its entry point and calls the hooks in it; jax is imported when it is
used."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tinyllm.plugins import Backend, BackendPlugin, Kernel, Probe, hookimpl

tinyllm_spec_version = 1


def _probe() -> Probe:
    """Whether it can run here."""
    return Probe(True, "jax is installed") if find_spec("jax") else Probe(False, "jax is not installed")


def _load(device: str | None) -> Backend:
    from tinyllm_jax.backend import JaxBackend

    return JaxBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """The backend. jax.Array is what users see; `jaxlib._jax.ArrayImpl` is the class that its arrays have."""
    return [
        BackendPlugin(
            "jax",
            _probe,
            _load,
            array_types=("jaxlib._jax.ArrayImpl",),
            install="pip install tinyllm-jax",
            spec_version=1,
        )
    ]


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """The ops that this backend computes itself; all others run by their reference."""
    return [*(own(op, module) for module, ops in KERNELS.items() for op in ops), DENSE]


def own(op: str, module: str) -> Kernel:
    """A kernel named `own`: the function of the op's name in one of our modules."""
    return Kernel("jax", op, "own", f"tinyllm_jax.{module}:{op}", spec_version=1, traceable=op != "paged_attention")


def worth_unpacking(call: Any) -> bool | str:
    """True, or why not. `bound`: as part of a model."""
    if not call.bound:
        return "unpacking at each call costs more than it gives"
    return call.dtype("x") != "float64" or "unpacks to float32"


KERNELS = {
    "layer": ["softmax", "linear", "rms_norm", "silu", "swiglu"],
    "rope": ["rope", "rope_angles", "rope_rotate"],
    "attention": ["sdpa", "gqa", "kv_append", "paged_attention"],
    "mha": ["mha"],
    "quantized": ["quantize", "dequantize", "quantized_linear", "quantized_embedding"],
}
DENSE = Kernel(
    "jax",
    "quantized_linear",
    "dense",
    "tinyllm_jax.quantized:quantized_linear_dense",
    supports=worth_unpacking,
    priority=1,
    prepare="tinyllm_jax.quantized:prepare",
    spec_version=1,
)
