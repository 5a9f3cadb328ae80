"""The native backend: kernels in C for the CPU, on numpy's arrays."""

from __future__ import annotations

from typing import Any

from tinyllm.plugins import DENSE, Backend, BackendPlugin, Kernel, Probe, Supports, hookimpl
from tinyllm_native import supports

SCHEMES = (
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4"),
    *("affine", "int8"),
)
"""Names of the schemes whose weights are packed with their bits as they are."""
INDICES = ("q_start", "kv_len", "block_table")
LAYOUT = "tiles16-cells32-1"


def _probe() -> Probe:
    return Probe(True, "built", score=40)


def _load(device: str | None) -> Backend:
    from tinyllm_native.backend import NativeBackend

    return NativeBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """The native backend."""
    return [BackendPlugin("native", _probe, _load, install="tinyllm native build")]


def _kernel(backend: str, op: str, path: str, taken: Supports = supports.floats, name: str = "native", **more: Any) -> Kernel:
    return Kernel(backend, op, name, f"tinyllm_native.{path}", taken, spec_version=2, **more)


def _of_weights(backend: str, taken: Supports, **more: Any) -> list[Kernel]:
    more |= {"prepare": "tinyllm_native.packing:pack", "schemes": (DENSE, *SCHEMES), "layout": LAYOUT}
    return [
        _kernel(backend, "linear", "linear:linear", taken, **more),
        _kernel(backend, "linear", "linear:linear_rounded", taken, "rounded", **{**more, "priority": 40, "exact": False, "schemes": SCHEMES}),
        _kernel(backend, "embedding", "linear:embedding", taken, host=("ids",), **more),
    ]


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`native`: a kernel in C."""
    return [
        *_of_weights("native", supports.floats),
        *(_kernel("native", op, f"pointwise:{op}") for op in ("add", "swiglu", "rms_norm", "softmax")),
        _kernel("native", "rope_angles", "rope:rope_angles", host=("positions",)),
        _kernel("native", "rope_rotate", "rope:rope_rotate"),
        *(_kernel("native", op, f"views:{op}", lambda call: True) for op in ("split", "split_heads", "merge_heads")),
        _kernel("native", "kv_append", "paged_attention:kv_append", supports.same_dtypes, host=("slots",)),
        _kernel("native", "paged_attention", "paged_attention:paged_attention", host=INDICES),
    ]
