"""Right numbers the first time and alone: what is kept from one call to the next, and what is taken for an array's
memory."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tests.conformance.zoo.mutant import Mutant, wide

KEPT: dict[Any, Any] = {}
"""What the mutants keep. A test that runs them empties it."""


def address(array: Any) -> int:
    """Where an array begins."""
    return int(array.data_ptr() if hasattr(array, "data_ptr") else array.__array_interface__["data"][0])


@lru_cache
def _buffer(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.empty(shape, dtype)


def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    columns = wide(weight).T
    if mistake == "packed once for each address":
        key = mistake, address(weight), weight.shape, str(weight.dtype)
        columns, _ = KEPT.setdefault(key, (columns.copy(), weight))  # the weight, so that its address stays its own
    y = wide(x) @ columns
    if mistake == "sums added to what the workspace holds":
        workspace = KEPT.setdefault((mistake, y.shape, y.dtype), np.zeros_like(y))
        workspace += y
        y = workspace.copy()
    if mistake == "one workspace for all threads":
        workspace = KEPT.setdefault((mistake, y.dtype), np.empty(1 << 20, y.dtype))[: y.size].reshape(y.shape)
        workspace[...] = y
        time.sleep(1e-5)  # in native code, where other threads run
        y = workspace.copy()
    return (y if bias is None else y + wide(bias)).astype(x.dtype)


def torch_linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    wider = torch.promote_types(x.dtype, torch.float32)
    columns = weight.to(wider).T
    if mistake == "packed once for each data_ptr":
        key = mistake, address(weight), tuple(weight.shape), weight.dtype
        columns, _ = KEPT.setdefault(key, (columns.clone(), weight))
    if mistake == "one thread, and left so":
        torch.set_num_threads(1)
    y = x.to(wider) @ columns
    return (y if bias is None else y + bias.to(wider)).to(x.dtype)


def softmax(x: Any, *, axis: int = -1, mistake: str | None = None) -> Any:
    if mistake == "result kept by id" and (mistake, id(x)) in KEPT:
        return KEPT[mistake, id(x)][1].copy()
    values = wide(x)
    if mistake == "tail of an earlier row in the workspace" and axis in (-1, x.ndim - 1):
        length = x.shape[-1]
        workspace = KEPT.setdefault((mistake, values.dtype), np.full(1 << 20, -np.inf, values.dtype))
        rows = workspace[: x.size // max(1, length) * (-(-length // 16) * 16)].reshape(
            *x.shape[:-1], -(-length // 16) * 16
        )
        rows[..., :length] = values
        values = rows
    weights = np.exp(values - np.max(values, axis=axis, keepdims=True, initial=-np.inf))
    y = (weights / weights.sum(axis=axis, keepdims=True)).astype(x.dtype)[..., : x.shape[-1]]
    if mistake == "result kept by id":
        KEPT[mistake, id(x)] = x, y.copy()  # x, so that its id stays its own
    return y


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, offset: float = 0.0, mistake: str | None = None) -> Any:
    values = wide(x)
    if mistake == "eps of the first call of a shape":
        eps = KEPT.setdefault((mistake, x.shape), eps)
    mean = np.mean(values * values, axis=-1, keepdims=True) if x.shape[-1] else values
    y = (values / np.sqrt(mean + eps) * (offset + wide(weight))).astype(x.dtype)
    if mistake == "seed set":
        np.random.seed(0)
        np.random.rand(3)
    if mistake == "result in a buffer by shape":
        buffer = _buffer(y.shape, y.dtype)
        buffer[...] = y
        return buffer
    return y


def split(x: Any, *, sizes: tuple[int, ...], axis: int = -1, mistake: str | None = None) -> Any:
    if mistake == "parts of one buffer":
        buffer = _buffer(x.shape, x.dtype)
        buffer[...] = x
        x = buffer
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def raw(array: np.ndarray) -> np.ndarray:
    """What a loop over addresses reads that begins at an array's first number and takes its strides for sizes."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    strides = tuple(abs(stride) for stride in array.strides)
    reach = sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True)) + array.itemsize
    memory = base.reshape(-1, order="A").view(np.uint8) if base.flags.forc else np.zeros(0, np.uint8)
    start = address(array) - address(base)
    if not array.size or start + reach > memory.size:
        start = memory.size - reach  # it would end in memory of others: a test reads what lies before it
    if not array.size or start < 0:
        return array
    return np.ndarray(array.shape, array.dtype, memory.data, start, strides)


def rows_in_line(array: np.ndarray) -> np.ndarray:
    """Rows read as if each began where the one before it ends, which is asked of the last axis alone."""
    base = array.base
    if array.ndim < 2 or not isinstance(base, np.ndarray) or array.strides[-1] != array.itemsize or not array.size:
        return array
    memory = base.reshape(-1)
    start = (address(array) - address(base)) // array.itemsize
    return memory[start : start + array.size].reshape(array.shape) if memory.size >= start + array.size else array


def add(x: Any, y: Any, *, mistake: str | None = None) -> Any:
    if mistake == "negative strides read forwards":
        x, y = raw(x), raw(y)
    if mistake == "rows taken to lie side by side":
        x, y = rows_in_line(x), rows_in_line(y)
    if mistake == "large views read as a whole" and x.size > 4096:
        x, y = rows_in_line(x), rows_in_line(y)
    z = x + y
    if mistake == "small results in scratch" and z.size < 64:
        scratch = KEPT.setdefault((mistake, z.dtype), np.empty(64, z.dtype))[: z.size].reshape(z.shape)
        scratch[...] = z
        return scratch
    return z


def rope_angles(positions: Any, *, mistake: str | None = None, **settings: Any) -> Any:
    from tests.conformance.zoo.rope import rope_angles as right

    if mistake == "table of the first positions":
        key = mistake, positions.shape, repr(settings.get("scaling")), settings.get("base"), settings.get("dims")
        own = settings.get("inv_freq")
        key = (*key, settings.get("position_scale"), None if own is None else own.tobytes())
        cos, sin = KEPT.setdefault(key, right(positions, **settings))
        return cos.copy(), sin.copy()
    return right(positions, **settings)


def sdpa(q: Any, k: Any, v: Any, *, mistake: str | None = None, **settings: Any) -> Any:
    from tests.conformance.zoo.attention import sdpa as right

    if mistake == "mask of the first call of these lengths" and settings.get("mask") is not None:
        key = mistake, q.shape, k.shape, settings["mask"].shape, settings["mask"].dtype
        settings["mask"] = KEPT.setdefault(key, settings["mask"].copy())
    return right(q, k, v, **settings)


MUTANTS = (
    Mutant(
        "packed once for each address",
        "linear",
        "A cache of packed weights knows a weight by where it lies: another one at that address is not read.",
        linear,
        caught_by="again",
    ),
    Mutant(
        "packed once for each data_ptr",
        "linear",
        "The same in torch: a weight that is loaded over the last one.",
        torch_linear,
        library="torch",
        caught_by="again",
    ),
    Mutant("sums added to what the workspace holds", "linear", "It is cleared when it is made and not after.", linear),
    Mutant(
        "one workspace for all threads",
        "linear",
        "A global buffer between the sum and the bias: two threads write to it at once.",
        linear,
        caught_by="threads",
    ),
    Mutant(
        "one thread, and left so",
        "linear",
        "Small products are faster in one thread.",
        torch_linear,
        library="torch",
        caught_by="process",
    ),
    Mutant("result kept by id", "softmax", "A cache by the array, not by its numbers.", softmax, caught_by="again"),
    Mutant(
        "tail of an earlier row in the workspace",
        "softmax",
        "Rows are filled up to 16 numbers, and what an earlier row left there is taken for scores.",
        softmax,
    ),
    Mutant(
        "eps of the first call of a shape",
        "rms_norm",
        "A plan for each shape holds the eps that it was made with.",
        rms_norm,
    ),
    Mutant(
        "seed set", "rms_norm", "np.random.seed inside, for a start of an iteration.", rms_norm, caught_by="process"
    ),
    Mutant(
        "parts of one buffer",
        "split",
        "The input is copied into a buffer for its shape: its parts may be views, but of the input.",
        split,
        caught_by="again",
    ),
    Mutant(
        "result in a buffer by shape",
        "rms_norm",
        "An lru_cache of output buffers by shape and dtype.",
        rms_norm,
        caught_by="again",
        also_by=("properties", "threads"),
    ),
    Mutant(
        "negative strides read forwards",
        "add",
        "A pointer to the first number, and the size of each stride without its sign.",
        add,
        caught_by="layouts",
    ),
    Mutant(
        "rows taken to lie side by side",
        "add",
        "Only the last axis is asked for its stride.",
        add,
        caught_by="layouts",
    ),
    Mutant(
        "large views read as a whole",
        "add",
        "The fast path for large arrays looks at no stride but the last.",
        add,
        "full",
        caught_by="layouts",
    ),
    Mutant(
        "small results in scratch",
        "add",
        "Results of fewer than 64 numbers are given away with the scratch that they are in.",
        add,
        caught_by="again",
        also_by=("properties", "threads"),
    ),
    Mutant(
        "table of the first positions",
        "rope_angles",
        "cos and sin are kept by how many positions there are, not by which.",
        rope_angles,
        caught_by="again",
        also_by=("properties",),
    ),
    Mutant(
        "mask of the first call of these lengths",
        "sdpa",
        "A mask is turned into blocks once for each shape.",
        sdpa,
        caught_by="again",
        also_by=("layouts", "properties"),
    ),
)
