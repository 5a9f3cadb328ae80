"""What the library reads, as ctypes structures: calls with their arrays and sizes, and packed weights."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PLACES, SIZES, NUMBERS = 12, 24, 4
"""Arrays, sizes and float attributes that a call may have."""

OPS = (
    "linear",
    "pack",
    "embedding",
    "rms_norm",
    "layer_norm",
    "add",
    "mul",
    "scale",
    "softcap",
    "sigmoid",
    "silu",
    "gelu",
    "swiglu",
    "geglu",
    "softmax",
    "rope_rotate",
    "rope_angles",
    "kv_append",
    "paged_attention",
    "moe_router",
    "moe_experts",
    "short_conv",
    "gated_delta",
    "all_reduce",
)
"""The library's ops in the order of `source/ops.h`."""

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
"""Numbers of dtypes, as `source/call.h` and `source/weight.h` have them."""


class Record(ctypes.Structure):
    """A call whose arrays and sizes are known when a step begins; as in `source/run.h`."""

    _fields_ = (
        ("op", ctypes.c_int32),
        ("slot", ctypes.c_int32 * PLACES),
        ("offset", ctypes.c_int64 * PLACES),
        ("symbol", ctypes.c_int32 * SIZES),
        ("size", ctypes.c_int64 * SIZES),
        ("number", ctypes.c_double * NUMBERS),
    )


class Temporary(ctypes.Structure):
    """A temporary array: bytes for each unit of one of the step's sizes."""

    _fields_ = (("symbol", ctypes.c_int32), ("unused", ctypes.c_int32), ("bytes", ctypes.c_int64))


class Weight(ctypes.Structure):
    """A packed weight; as in `source/weight.h`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("bits", "zero", "table", "scaled")),
        *((name, ctypes.c_int32) for name in ("group", "minimums", "sparse", "unused")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "groups", "blocks")),
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "minima", "supers", "in_floats", "order")),
    )


HEADER = ("bits", "zero", "table", "scaled", "group", "minimums", "sparse", "rows", "columns")
"""Numbers of a packed weight, in the order of its array `header`, whose last is that of the dtype."""
ARRAYS = ("codes", "scales", "minima", "supers", "in_floats", "order")


def weight_of(arrays: Mapping[str, np.ndarray]) -> Weight:
    """A packed weight as the library reads it. The arrays have to outlive it."""
    weight = Weight(**dict(zip(HEADER, arrays["header"].tolist(), strict=False)))
    weight.groups, weight.blocks = -(-weight.columns // max(weight.group, 1)), -(-weight.columns // 256)
    for name in ARRAYS:
        if name in arrays:
            setattr(weight, name, arrays[name].ctypes.data)
    return weight


def record(
    op: str,
    slots: Sequence[int],
    sizes: Sequence[int],
    numbers: Sequence[float] = (),
    offsets: Sequence[int] = (),
    symbols: Mapping[int, int] | None = None,
) -> Record:
    """A record.

    Args:
        slots: where its arrays lie, -1 for one that is not given.
        sizes: in the op's order. symbols: by place among them the size of the step that it is a multiple of.
        offsets: bytes from the beginning of each array on.
    """
    made = Record(op=OPS.index(op))
    made.slot[:] = [*slots, *[-1] * (PLACES - len(slots))]
    made.offset[:] = [*offsets, *[0] * (PLACES - len(offsets))]
    made.symbol[:] = [(symbols or {}).get(place, -1) for place in range(SIZES)]
    made.size[:] = [*sizes, *[0] * (SIZES - len(sizes))]
    made.number[:] = [*numbers, *[0.0] * (NUMBERS - len(numbers))]
    return made


def pointer(array: np.ndarray | ctypes.Structure | int | None) -> int | None:
    """Where an array or a structure lies; an address is given as it is."""
    if array is None or isinstance(array, int):
        return array
    return array.ctypes.data if isinstance(array, np.ndarray) else ctypes.addressof(array)


def declare(library: Any) -> None:
    """Tell ctypes the arguments of the library's functions."""
    library.tinyllm_run.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    library.tinyllm_run.restype = ctypes.c_int
