"""kv_append: the keys and values of new tokens written into their slots of a cache's pages."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.cases import BadInput, Case, Draw, constant, kept, normal
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.types import Call


def _reference(xp: Any, k_pages: Any, v_pages: Any, k: Any, v: Any, slots: Any) -> Any:
    return _write(xp, k_pages, k, slots), _write(xp, v_pages, v, slots)


def _write(xp: Any, pages: Any, tokens: Any, slots: Any) -> Any:
    """The pages `[P, Hkv, page, D]` with tokens `[T, Hkv, D]` in their slots.

    References assign no items, so each slot is taken from the old rows followed by the new ones, as `source` says.
    """
    count, heads, page, dim = pages.shape
    source = np.arange(count * page)
    source[slots] = count * page + np.arange(len(slots))
    old = xp.reshape(xp.permute_dims(pages, (0, 2, 1, 3)), (count * page, heads, dim))
    rows = xp.take(xp.concat([old, tokens], axis=0), xp.asarray(source), axis=0)
    return xp.permute_dims(xp.reshape(rows, (count, page, heads, dim)), (0, 2, 1, 3))


def check_pages(call: Call) -> None:
    """Refuses pages of size 0, which have no slots.

    Raises:
        InvalidInputError: names the op and the shape of `k_pages`.
    """
    pages = call.shape("k_pages")
    if pages[2] == 0:
        raise invalid(call.op, "k_pages", "pages of at least 1 token", f"shape {list(pages)}")


def _check_values(call: Call, values: Any) -> None:
    slots, (count, _, page, _) = values["slots"], call.shape("k_pages")
    if not slots.size:
        return
    if not 0 <= int(slots.min()) <= int(slots.max()) < count * page:
        raise invalid("kv_append", "slots", f"0 to {count * page - 1}", f"{int(slots.min())} to {int(slots.max())}")
    if len(np.unique(slots)) != slots.size:
        raise invalid("kv_append", "slots", "no slot twice", slots.tolist())


def _bytes(call: Call) -> int:
    """The new rows are read and written; the other rows of the pages are not touched."""
    itemsizes = sum(numpy_dtype(call.dtype(name)).itemsize for name in ("k", "k_pages"))
    return int((prod(call.shape("k")) + prod(call.shape("v"))) * itemsizes)


def append_inputs(
    pages: int, heads: int, page: int, dim: int, slots: list[int], value_dim: int | None = None
) -> dict[str, Draw]:
    """Inputs of `kv_append`: a pool `[pages, heads, page, dim]`, and a token of normal numbers for each slot."""
    value_dim = dim if value_dim is None else value_dim
    return {
        "k_pages": normal(pages, heads, page, dim),
        "v_pages": normal(pages, heads, page, value_dim),
        "k": normal(len(slots), heads, dim),
        "v": normal(len(slots), heads, value_dim),
        "slots": constant(slots, "int32"),
    }


def in_pages_of(dtype: str, inputs: Mapping[str, Draw]) -> dict[str, Draw]:
    """The inputs with pages of a dtype of their own."""
    return dict(inputs) | {name: kept(inputs[name], dtype) for name in ("k_pages", "v_pages")}


_SMALL = append_inputs(3, 2, 4, 8, [9, 10, 3])


def _bad(name: str, match: str, decision: int | None = 22, **inputs: Draw) -> BadInput:
    """A call that is right but for the inputs given."""
    return BadInput(name, _SMALL | inputs, {}, InvalidInputError, f"kv_append: {match}", decision)


kv_append = OpSpec(
    name="kv_append",
    summary="Writes the keys and values of new tokens into the pages of a cache, each token into its slot.",
    formula="k_pages[s // page, :, s % page] = k[t], s = slots[t]; likewise v",
    source="Kwon et al. 2023, arXiv:2309.06180",
    inputs=(
        Input("k_pages", "P Hkv page D", "S", about="consumed"),
        Input("v_pages", "P Hkv page Dv", "S", about="consumed"),
        Input("k", "T Hkv D"),
        Input("v", "T Hkv Dv"),
        Input("slots", "T", "int", about="page number * page size + place in the page; distinct"),
    ),
    outputs=(Output("k_pages", "P Hkv page D", "S"), Output("v_pages", "P Hkv page Dv", "S")),
    reference=_reference,
    check=check_pages,
    check_values=_check_values,
    flops=lambda call: 0,
    bytes=_bytes,
    tolerance=0.0,
    more_cases="tinyllm.catalogue.cases.pages:kv_append",
    consumes=("k_pages", "v_pages"),
    host=("slots",),
    notes=(
        "The pages that come back may be the very arrays that went in: use only those.",
        "Numbers are copied; where the pages are of another dtype than k and v, each is rounded to it once, to the "
        "nearest, to the even one between two.",
    ),
    cases=(
        Case("P3,H2,page4,D8,T3", _SMALL),
        Case("P2,H1,page1,D4,T2,pages of one", append_inputs(2, 1, 1, 4, [1, 0])),
        Case("P1,H2,page16,D4,T5,one large page", append_inputs(1, 2, 16, 4, [7, 8, 9, 10, 11])),
        Case("P4,H2,page2,D4,T6,across pages", append_inputs(4, 2, 2, 4, [6, 7, 2, 3, 0, 5])),
        Case("P3,H2,page4,D8,Dv3,T2", append_inputs(3, 2, 4, 8, [11, 0], 3), decision=8),
        Case("P2,H2,page3,D4,T6,all slots", append_inputs(2, 2, 3, 4, [5, 4, 3, 2, 1, 0])),
        *(
            Case(f"P3,H2,page4,D8,T3,{dtype} pages", in_pages_of(dtype, _SMALL), decision=24)
            for dtype in ("float16", "bfloat16", "float32")
        ),
        Case("T0", append_inputs(2, 2, 4, 4, []), decision=20),
        Case("P0,T0", append_inputs(0, 2, 4, 4, []), decision=20),
        Case("P17,H3,page64,D64,T100", append_inputs(17, 3, 64, 64, [s * 10 + 3 for s in range(100)]), tier="full"),
        Case("decode:P64,H3,page64,D64,T1", append_inputs(64, 3, 64, 64, [2000]), tier="bench"),
        Case("decode:P1,H3,page2048,D64,T1", append_inputs(1, 3, 2048, 64, [512]), tier="bench"),
        Case(
            "prefill:P64,H3,page64,D64,T128",
            append_inputs(64, 3, 64, 64, [*range(640, 704), *range(64, 128)]),
            tier="bench",
        ),
    ),
    bad_inputs=(
        _bad("slot past the pages", "slots: expected 0 to 11, got 0 to 12", 20, slots=constant([0, 1, 12])),
        _bad("slot negative", "slots: expected 0 to 11, got -1 to 1", 20, slots=constant([0, 1, -1])),
        _bad("no pages", "slots: expected 0 to -1", 20, k_pages=normal(0, 2, 4, 8), v_pages=normal(0, 2, 4, 8)),
        _bad("slot twice", "slots: expected no slot twice", slots=constant([5, 1, 5])),
        _bad("too few slots", "slots: expected shape [T] with T = 3", None, slots=constant([5, 1])),
        _bad("pages of size 0", "k_pages: expected pages of", k_pages=normal(3, 2, 0, 8), v_pages=normal(3, 2, 0, 8)),
        _bad("float slots", "slots: expected an integer dtype", None, slots=constant([0.0, 1.0, 2.0])),
        _bad("pages of two dtypes", "v_pages: expected the dtype", 24, v_pages=kept(_SMALL["v_pages"], "float16")),
        _bad("heads differ", "k: expected shape", None, k=normal(3, 4, 8)),
    ),
)
