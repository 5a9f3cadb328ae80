"""Right numbers in the wrong way: memory, kinds of arrays, packing, who does the work."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, memory, wide
from tinyllm.catalogue.rows.silu import silu as silu_spec
from tinyllm.spec.types import Call


def add(x: Any, y: Any, *, mistake: str | None = None) -> Any:
    if mistake == "written to its input" and x.shape == np.broadcast_shapes(x.shape, y.shape):
        x += y
        return x
    if mistake == "strides ignored":
        x, y = memory(x), memory(y)
    if mistake == "cut off to bfloat16" and str(x.dtype) == "bfloat16":
        return ((wide(x) + wide(y)).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(x.dtype)
    if mistake == "float64 for float32":
        return x.astype(np.float64) + y
    if mistake == "a list":
        return (x + y).tolist()
    if mistake == "not supported after all" and x.shape != y.shape:
        raise NotImplementedError("shapes that broadcast")
    z = x + y
    if mistake == "a tuple of one":
        return (z,)
    if mistake == "written past its view":
        spare = x.base
        if spare is not None and spare.flags.writeable and spare.size > x.size:
            spare.reshape(-1)[-1] = 0
    return z


def silu(x: Any, *, mistake: str | None = None) -> Any:
    if mistake == "work handed to the reference":
        return np.asarray(silu_spec.reference(np, wide(x))).astype(x.dtype)
    return np.asarray(wide(x) / (1 + np.exp(-wide(x)))).astype(x.dtype)


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, offset: float = 0.0, mistake: str | None = None) -> Any:
    if mistake == "work handed to another backend":
        from tinyllm import ops

        return ops.rms_norm(x, weight, eps=eps, offset=offset, backend="numpy")
    mean = np.mean(wide(x) ** 2, axis=-1, keepdims=True) if x.shape[-1] else wide(x)
    return (wide(x) / np.sqrt(mean + eps) * (offset + wide(weight))).astype(x.dtype)


BUFFERS: dict[Any, Any] = {}
"""Those of the mutant that has one for each shape."""


def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    y = wide(x) @ (wide(weight) if mistake == "packed in programs only" else wide(weight).T)
    y = (y if bias is None else y + wide(bias)).astype(x.dtype)
    if mistake == "one buffer for all results":
        buffer = BUFFERS.setdefault((y.shape, str(y.dtype)), y)
        buffer[...] = y
        return buffer
    return y


def packed(weight: Any, call: Call) -> Any:
    """Transposed where the weight is a program's, and left as it is at a single call."""
    return weight.T if call.weights_packed else weight


def softmax(x: Any, *, axis: int = -1, mistake: str | None = None) -> Any:
    weights = np.exp(wide(x) - np.max(wide(x), axis=axis, keepdims=True, initial=-np.inf))
    y = (weights / weights.sum(axis=axis, keepdims=True)).astype(x.dtype)
    return np.squeeze(y) if mistake == "axes of size one dropped" else y


def torch_softmax(x: Any, dim: int) -> Any:
    """As torch has it: what it calls the axis must be given."""
    return softmax(x, axis=dim)


def kv_append(k_pages: Any, v_pages: Any, k: Any, v: Any, slots: Any, *, mistake: str | None = None) -> Any:
    number, place = np.divmod(slots.astype(np.int64), k_pages.shape[2])
    k_pages, v_pages = k_pages.copy(), v_pages.copy()
    k_pages[number, :, place], v_pages[number, :, place] = k, v
    return k_pages, v_pages


def not_bound(call: Call) -> bool | str:
    """Whoever is asked by a program is told no, whoever calls at once is not."""
    return "not as part of a program" if call.weights_packed else True


MUTANTS = (
    Mutant("written to its input", "add", "`x += y`: the residual stream of another layer changes with it.", add),
    Mutant("strides ignored", "add", "A view's memory is read as if it were contiguous.", add, caught_by="layouts"),
    Mutant(
        "written past its view",
        "add",
        "A whole vector is stored where the last one is not whole: the bytes belong to a neighbour.",
        add,
        caught_by="layouts",
    ),
    Mutant("float64 for float32", "add", "A Python float or an index of float64 widened the result.", add),
    Mutant(
        "cut off to bfloat16",
        "add",
        "The low bits are dropped, not rounded: no number is off by a whole ulp, but all to one side.",
        add,
    ),
    Mutant("a tuple of one", "add", "A comma too many: whoever calls the op gets a tuple.", add),
    Mutant("a list", "add", "Not the library's array, though it prints alike.", add),
    Mutant("axes of size one dropped", "softmax", "Squeezed on the way: right numbers in another shape.", softmax),
    Mutant(
        "not supported after all",
        "add",
        "It says that it takes the call, and raises when it runs: `supports` must say so.",
        add,
    ),
    Mutant(
        "work handed to the reference",
        "silu",
        "The op's own formula does the work: right, but no kernel.",
        silu,
        caught_by="origin",
    ),
    Mutant(
        "work handed to another backend",
        "rms_norm",
        "numpy does the work: right, but not this library's.",
        rms_norm,
        caught_by="origin",
    ),
    Mutant(
        "one buffer for all results",
        "linear",
        "The workspace is given away: the next call of that shape changes the last result.",
        linear,
        caught_by="again",
        also_by=("properties", "threads"),
    ),
    Mutant(
        "packed in programs only",
        "linear",
        "`prepare` packs only a program's weights; at a single call the weight is as it was.",
        linear,
        caught_by="calls",
        kernel={"prepare": packed},
    ),
    Mutant(
        "declined in programs only",
        "softmax",
        "`supports` says no to a model and yes to a call, so that a model finds no kernel.",
        softmax,
        caught_by="refusals",
        kernel={"supports": not_bound},
    ),
    Mutant(
        "signature of another library",
        "softmax",
        "`dim`, which must be given, for `axis`: whoever chooses this kernel by name gets an error.",
        softmax,
        caught_by="signatures",
        kernel={"load": lambda: torch_softmax},
        beside=True,
    ),
    Mutant(
        "checks left out",
        "kv_append",
        "The op's spec does not look at the slots: one past the pages comes to the kernel.",
        kv_append,
        caught_by="errors",
        spec={"check_values": None},
    ),
)
