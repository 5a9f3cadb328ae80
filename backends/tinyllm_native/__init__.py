"""The native backend: kernels in C, compiled for the processor when tinyllm is installed."""

from __future__ import annotations

from typing import Any

from tinyllm.errors import ConfigError
from tinyllm.plugins import DENSE, Backend, BackendPlugin, Command, Kernel, Probe, Supports, hookimpl
from tinyllm_native import supports
from tinyllm_native.find import BUILD, PORTABLE, find_library

SCHEMES = (
    *(
        "q4_0",
        "q4_1",
        "q5_0",
        "q5_1",
        "q8_0",
        "q2_k",
        "q3_k",
        "q4_k",
        "q5_k",
        "q6_k",
        "iq4_nl",
        "iq4_xs",
        "mxfp4",
        "nvfp4",
    ),
    *("affine", "zero_point", "fp8", "fp4", "nf4", "int8"),
)
"""Schemes whose weights are packed with the bits that they have."""
HALVES = ("float16", "bfloat16")
"""Schemes of floats that stay as they are."""
INDICES = ("q_start", "kv_len", "block_table")
OF_SEQUENCES = ("q_start", "kv_len", "state_rows")
RECURRENT = ("short_conv", "gated_delta")
LAYOUT = "tiles16-cells32-3"
"""How weights are packed, with its version; all levels read the same."""
ELEMENTS = ("add", "mul", "scale", "softcap", "sigmoid", "silu", "gelu", "swiglu", "geglu")
ROWS = ("rms_norm", "layer_norm", "softmax")
EXPERTS = {"prepare": "tinyllm_native.packing:pack_stack", "prepares": ("gate_proj", "up_proj", "down_proj")}
"""How stacks of experts are packed."""
VIEWS = ("split", "split_heads", "merge_heads")
SCORE, SCORE_OF_PORTABLE = 40, 15
"""Before torch's; without vector instructions torch and mlx are faster, and numpy is not."""
FIRST = 30
"""Above the kernels of other backends."""


def _probe() -> Probe:
    found = find_library()
    if not found.level:
        return Probe(False, found.reason)
    return Probe(True, found.reason, score=SCORE if found.level != PORTABLE else SCORE_OF_PORTABLE)


def _is_faster() -> bool:
    """Whether other backends gain by these kernels here."""
    try:
        return find_library().level not in ("", PORTABLE)
    except ConfigError:  # a level of an unknown name, which whoever asks for the backend is told
        return False


def _load(device: str | None) -> Backend:
    from tinyllm_native.backend import NativeBackend

    return NativeBackend()


@hookimpl
def tinyllm_backends() -> list[BackendPlugin]:
    """C on a CPU."""
    return [BackendPlugin("native", _probe, _load, install=BUILD)]


@hookimpl
def tinyllm_commands() -> list[Command]:
    """`tinyllm native`, which compiles it."""
    return [Command("native", "tinyllm_native.commands:app")]


def _kernel(
    backend: str, op: str, path: str, taken: Supports | None = supports.floats, name: str = "native", **more: Any
) -> Kernel:
    return Kernel(backend, op, name, f"tinyllm_native.{path}", taken, spec_version=4, **more)


def _of_weights(backend: str, taken: Supports, schemes: tuple[str, ...], priority: int, **more: Any) -> list[Kernel]:
    more |= {"prepare": "tinyllm_native.packing:pack", "layout": LAYOUT, "schemes": schemes}
    rounded: dict[str, Any] = {"priority": priority + 1, "exact": False}
    exact: dict[str, Any] = {"priority": priority}
    return [
        _kernel(backend, "linear", "linear:linear", taken, **exact, **more),
        _kernel(backend, "linear", "linear:linear_rounded", taken, "rounded", **rounded, **more),
        _kernel(backend, "moe_experts", "moe:moe_experts", taken, **exact, **more | EXPERTS),
        _kernel(backend, "moe_experts", "moe:moe_experts_rounded", taken, "rounded", **rounded, **more | EXPERTS),
        _kernel(backend, "embedding", "linear:embedding", taken, host=("ids",), **exact, **more),
    ]


def _attention(backend: str, taken: Supports, **more: Any) -> Kernel:
    return _kernel(backend, "paged_attention", "paged_attention:paged_attention", taken, host=INDICES, **more)


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """`native`: a kernel in C; `rounded` takes the numbers of several rows of x as 8 bits. Products with quantized
    weights and attention over pages serve numpy and torch as well, on the CPU."""
    shared: dict[str, Any] = {"arrays": "host", "traceable": False}
    others = ("numpy", "torch") if _is_faster() else ()
    return [
        *_of_weights("native", supports.floats, (DENSE, *HALVES, *SCHEMES), 0),
        *(k for name in others for k in _of_weights(name, supports.packed, SCHEMES, FIRST, **shared)),
        *(_attention(name, supports.on_cpu, priority=FIRST, **shared) for name in others),
        *(_kernel("native", op, f"elements:{op}") for op in ELEMENTS),
        *(_kernel("native", op, f"rows:{op}") for op in ROWS),
        _kernel("native", "rope_angles", "rope:rope_angles", host=("positions", "lengths")),
        _kernel("native", "rope_rotate", "rope:rope_rotate"),
        *(_kernel("native", op, f"views:{op}", None) for op in VIEWS),
        _kernel("native", "moe_router", "moe:moe_router"),
        _kernel("native", "kv_append", "paged_attention:kv_append", host=("slots",)),
        _attention("native", supports.floats),
        *(_kernel("native", op, f"recurrent:{op}", host=OF_SEQUENCES) for op in RECURRENT),
        _kernel("native", "all_reduce", "parallel:all_reduce", supports.shared, priority=FIRST),
    ]
