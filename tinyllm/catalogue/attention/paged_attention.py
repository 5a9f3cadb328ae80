"""paged_attention: causal attention of a flat batch of tokens over the pages of a cache."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.formula import (
    REFUSED,
    SETTINGS,
    attend_groups,
    attention_flops,
    check_heads,
    check_scale,
    error_scale,
    visible,
)
from tinyllm.catalogue.attention.kv_append import itemsize
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.spec.cases import BadInput, Case, Draw, constant, normal
from tinyllm.spec.op_spec import Input, OpSpec, Output
from tinyllm.spec.types import Call


def _reference(
    xp: Any,
    q: Any,
    k_pages: Any,
    v_pages: Any,
    q_start: Any,
    kv_len: Any,
    block_table: Any,
    *,
    sinks: Any = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Any:
    parts = [xp.zeros((0, q.shape[1], v_pages.shape[-1]), dtype=q.dtype)]
    for b, length in enumerate(kv_len.tolist()):
        first, last = int(q_start[b]), int(q_start[b + 1])
        if first == last:
            continue
        queries = xp.permute_dims(q[first:last, ...], (1, 0, 2))
        k, v = (_gather(xp, pages, block_table[b], length) for pages in (k_pages, v_pages))
        seen = visible(xp, last - first, length, True, window)
        y = attend_groups(xp, queries, k, v, scale=scale, softcap=softcap, seen=seen, sinks=sinks)[0]
        parts.append(xp.permute_dims(y, (1, 0, 2)))
    return xp.concat(parts, axis=0)


def _gather(xp: Any, pages: Any, row: Any, length: int) -> Any:
    """The first `length` keys or values of a sequence, `[Hkv, length, D]`."""
    _, heads, page, dim = pages.shape
    count = -(-length // page)
    own = xp.take(pages, xp.asarray(row[:count]), axis=0)
    return xp.reshape(xp.permute_dims(own, (1, 0, 2, 3)), (heads, count * page, dim))[:, :length, :]


def _check(call: Call) -> None:
    q, k = call.shape("q"), call.shape("k_pages")
    check_heads("paged_attention", q[1], k[1])
    check_scale("paged_attention", call, q[2])
    starts, sequences = call.shape("q_start")[0], call.shape("kv_len")[0]
    if isinstance(starts, int) and isinstance(sequences, int) and starts != sequences + 1:
        raise invalid("paged_attention", "q_start", f"{sequences + 1} numbers for {sequences} sequences", starts)


def _check_values(call: Call, values: Any) -> None:
    # of any integer dtype, and subtracted from
    q_start, kv_len, block_table = (
        values[name].astype(np.int64, copy=False) for name in ("q_start", "kv_len", "block_table")
    )
    tokens, (pages, _, page, _) = call.shape("q")[0], call.shape("k_pages")
    lengths = np.diff(q_start)
    if q_start[0] != 0 or q_start[-1] != tokens or (lengths < 0).any():
        raise invalid("paged_attention", "q_start", f"numbers rising from 0 to {tokens}", q_start.tolist())
    if (kv_len < lengths).any():
        raise invalid(
            "paged_attention", "kv_len", f"at least the {lengths.tolist()} new tokens of each sequence", kv_len.tolist()
        )
    needed = -(-kv_len // page)
    if (needed > block_table.shape[1]).any():
        raise invalid(
            "paged_attention",
            "kv_len",
            f"at most {block_table.shape[1] * page}, what the block table holds",
            kv_len.tolist(),
        )
    used = block_table[np.arange(block_table.shape[1])[None, :] < needed[:, None]]
    if used.size and not 0 <= int(used.min()) <= int(used.max()) < pages:
        raise invalid(
            "paged_attention",
            "block_table",
            f"page numbers 0 to {pages - 1}",
            f"{int(used.min())} to {int(used.max())}",
        )


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Sequence by sequence, as its reference."""
    q_start = inputs["q_start"]
    parts = [np.zeros((0, inputs["q"].shape[1], 1))]
    for b, length in enumerate(inputs["kv_len"].tolist()):
        queries = np.swapaxes(inputs["q"][q_start[b] : q_start[b + 1]], 0, 1)
        k, v = (_gather(np, inputs[name], inputs["block_table"][b], length) for name in ("k_pages", "v_pages"))
        size = error_scale(queries, k, v, attributes.get("scale"))
        parts.append(np.swapaxes(np.max(size, axis=-1, keepdims=True, initial=0), 0, 1))
    return np.concatenate(parts)


def _unread(inputs: Any, attributes: Any) -> Any:
    """All slots but those of keys that some token sees."""
    q_start, block_table, page = inputs["q_start"], inputs["block_table"], inputs["k_pages"].shape[2]
    free = np.ones((inputs["k_pages"].shape[0], page), bool)
    for b, length in enumerate(inputs["kv_len"].tolist()):
        new = int(q_start[b + 1]) - int(q_start[b])
        keys = np.flatnonzero(np.any(visible(np, new, length, True, attributes.get("window")), axis=0))
        free[block_table[b, keys // page], keys % page] = False
    return {name: np.broadcast_to(free[:, None, :, None], inputs[name].shape) for name in ("k_pages", "v_pages")}


def _keys(call: Call) -> int:
    """At most this many keys are seen by a token: a call knows the table, not the lengths in it (so bench cases nearly
    fill it)."""
    return int(call.shape("block_table")[1] * call.shape("k_pages")[2])


def _flops(call: Call) -> int:
    q, v = call.shape("q"), call.shape("v_pages")
    return attention_flops(call, (q[0], q[1], _keys(call)), q[2], v[3])


def _bytes(call: Call) -> int:
    """The pages in the block table are read, not the whole pool."""
    q, k, v = call.shape("q"), call.shape("k_pages"), call.shape("v_pages")
    rows = call.shape("block_table")[0] * _keys(call) * k[1]
    return int((prod(q) + prod(q[:2]) * v[3] + rows * (k[3] + v[3])) * itemsize(call.dtype("q")))


def batch(
    lengths: list[tuple[int, int]],
    *,
    heads: int,
    kv_heads: int,
    page: int,
    dim: int,
    value_dim: int | None = None,
    spare: int = 0,
) -> dict[str, Draw]:
    """Sequences given as (new tokens, keys in all), on pages shuffled over a pool with one page that belongs to nobody.

    Slots past a sequence's keys, and the page of nobody, are NaN: they are never read. `spare` adds columns of -1 to
    the table.
    """
    value_dim = dim if value_dim is None else value_dim
    counts = [-(-keys // page) for _, keys in lengths]
    order = np.random.default_rng(7).permutation(sum(counts) + 1)
    table = np.full((len(lengths), max(counts, default=0) + spare), -1)
    free = np.ones((len(order), page), bool)
    for b, (count, (_, keys)) in enumerate(zip(counts, lengths, strict=True)):
        table[b, :count] = order[sum(counts[:b]) : sum(counts[:b]) + count]
        free[table[b, :count]] = (np.arange(count * page) >= keys).reshape(count, page)
    starts = np.cumsum([0, *(new for new, _ in lengths)])
    return {
        "q": normal(int(starts[-1]), heads, dim),
        "k_pages": _pool(free, kv_heads, dim),
        "v_pages": _pool(free, kv_heads, value_dim),
        "q_start": constant(starts, "int32"),
        "kv_len": constant([keys for _, keys in lengths], "int32"),
        "block_table": constant(table, "int32"),
    }


def _pool(free: Any, heads: int, dim: int) -> Draw:
    """Pages `[P, H, page, D]` with NaN in the free slots `[P, page]`."""
    shape = (free.shape[0], heads, free.shape[1], dim)
    return Draw(shape, lambda rng: np.where(free[:, None, :, None], np.nan, rng.standard_normal(shape)))


def ints(**arrays: Any) -> dict[str, Draw]:
    return {name: constant(values, "int32") for name, values in arrays.items()}


_MIXED = batch([(5, 5), (1, 7), (3, 9), (1, 1)], heads=4, kv_heads=2, page=4, dim=8, spare=1)
_TWO = batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8)
_SMOL = {"heads": 9, "kv_heads": 3, "dim": 64}
_EMPTY = {"q": normal(0, 4, 8), "k_pages": normal(2, 2, 4, 8), "v_pages": normal(2, 2, 4, 8)}

paged_attention = OpSpec(
    name="paged_attention",
    summary="Causal grouped-query attention of a flat batch of tokens, each sequence over its own pages of a "
    "shared cache.",
    formula="tokens q_start[b] .. q_start[b+1]-1 of sequence b: gqa(q, k, v, causal) over the first kv_len[b] "
    "keys in pages block_table[b]",
    source="Kwon et al. 2023, arXiv:2309.06180",
    inputs=(
        Input("q", "T Hq D", about="new tokens of all sequences, one after the other"),
        Input("k_pages", "P Hkv page D", about="the new tokens' keys are already in it"),
        Input("v_pages", "P Hkv page Dv"),
        Input("q_start", "B1", "int", about="[B + 1]: where each sequence begins, from 0 to T"),
        Input("kv_len", "B", "int", about="keys of each sequence, the new ones included"),
        Input("block_table", "B M", "int", about="page numbers; entries past what kv_len needs are never read"),
        Input(
            "sinks", "Hq", "float", optional=True, about="a raw logit per query head, in the sum and not in the output"
        ),
    ),
    attributes=tuple(a for a in SETTINGS if a.name != "causal"),
    outputs=(Output("y", "T Hq Dv"),),
    reference=_reference,
    check=_check,
    check_values=_check_values,
    flops=_flops,
    bytes=_bytes,
    scale=_scale,
    more_cases="tinyllm.catalogue.cases.pages:paged_attention",
    unread=_unread,
    host=("q_start", "kv_len", "block_table"),
    notes=(
        "Always causal, aligned to the end: a sequence's last token sees all its keys. Prefill, decode and "
        "chunks differ in numbers alone.",
        "Pages and slots that belong to nobody may hold NaN. A cache in one piece is a pool of one large page "
        "for each sequence.",
        "A sequence may have no new tokens: it gives no output.",
    ),
    refused=REFUSED
    | {"causal": "it is always causal", "mask": "there are no masks over pages: use ops.gqa on a cache in one piece"},
    cases=(
        Case("prefill+decode+chunk", _MIXED),
        Case("B1,T1,decode", batch([(1, 6)], heads=4, kv_heads=2, page=4, dim=8)),
        Case("B1,T1,first token", batch([(1, 1)], heads=4, kv_heads=2, page=4, dim=8)),
        Case("B1,T6,one large page", batch([(6, 6)], heads=4, kv_heads=2, page=16, dim=8)),
        Case("B3,T3,decode,a large page each", batch([(1, 5), (1, 16), (1, 1)], heads=4, kv_heads=2, page=16, dim=8)),
        Case("B2,pages of one", batch([(2, 3), (1, 4)], heads=2, kv_heads=2, page=1, dim=4)),
        Case("B2,page borders", batch([(4, 8), (1, 4)], heads=4, kv_heads=1, page=4, dim=8), decision=10),
        Case("B2,Hq6,Hkv2", batch([(2, 5), (1, 3)], heads=6, kv_heads=2, page=4, dim=4), decision=10),
        Case("B2,Hq3,Hkv3", batch([(2, 5), (1, 3)], heads=3, kv_heads=3, page=4, dim=4)),
        Case("B2,D8,Dv3", batch([(2, 5), (1, 3)], heads=4, kv_heads=2, page=4, dim=8, value_dim=3), decision=8),
        Case("mixed,window3", _MIXED, {"window": 3}, decision=7),
        Case("mixed,window1", _MIXED, {"window": 1}, decision=7),
        Case("mixed,softcap", _MIXED, {"softcap": 5.0}, decision=4),
        Case("mixed,scale", _MIXED, {"scale": 0.5}, decision=9),
        Case("mixed,sinks,window4", _MIXED | {"sinks": normal(4)}, {"window": 4}, decision=11),
        Case("B3,one without tokens", batch([(2, 5), (0, 6), (1, 2)], heads=4, kv_heads=2, page=4, dim=8), decision=20),
        Case("B3,one without keys", batch([(2, 5), (0, 0), (1, 2)], heads=4, kv_heads=2, page=4, dim=8), decision=20),
        Case("T0", _EMPTY | ints(q_start=[0, 0], kv_len=[3], block_table=[[1]]), decision=20),
        Case("B0", _EMPTY | ints(q_start=[0], kv_len=[], block_table=np.zeros((0, 0))), decision=20),
        Case("mixed,page16,D64", batch([(40, 40), (1, 129), (17, 80)], page=16, **_SMOL), tier="full"),
        Case(
            "mixed,page64,D80,window33",
            batch([(1, 200), (65, 70)], heads=8, kv_heads=2, page=64, dim=80),
            {"window": 33},
            tier="full",
        ),
        Case("decode:B1,S512,page64", batch([(1, 512)], page=64, **_SMOL), tier="bench"),
        Case("decode:B1,S512,one large page", batch([(1, 512)], page=544, **_SMOL), tier="bench"),
        Case("decode:B8,S512,page64", batch([(1, 512)] * 8, page=64, **_SMOL), tier="bench"),
        Case("decode:B8,S512,a large page each", batch([(1, 512)] * 8, page=544, **_SMOL), tier="bench"),
        Case("prefill:B1,T128,page64", batch([(128, 128)], page=64, **_SMOL), tier="bench"),
        Case("prefill:B1,T128,one large page", batch([(128, 128)], page=136, **_SMOL), tier="bench"),
    ),
    bad_inputs=(
        BadInput(
            "q_start not from 0",
            _TWO | ints(q_start=[1, 2, 3]),
            {},
            InvalidInputError,
            "q_start: expected numbers rising",
        ),
        BadInput(
            "q_start not to T",
            _TWO | ints(q_start=[0, 1, 2]),
            {},
            InvalidInputError,
            "q_start: expected numbers rising",
        ),
        BadInput(
            "q_start falls", _TWO | ints(q_start=[0, 4, 3]), {}, InvalidInputError, "q_start: expected numbers rising"
        ),
        BadInput(
            "q_start too short", _TWO | ints(q_start=[0, 3]), {}, InvalidInputError, "q_start: expected 3 numbers"
        ),
        BadInput(
            "fewer keys than tokens", _TWO | ints(kv_len=[1, 3]), {}, InvalidInputError, "kv_len: expected at least"
        ),
        BadInput(
            "more keys than pages", _TWO | ints(kv_len=[9, 3]), {}, InvalidInputError, "kv_len: expected at most 8"
        ),
        BadInput(
            "page too large",
            _TWO | ints(block_table=[[0, 4], [1, -1]]),
            {},
            InvalidInputError,
            "expected page numbers 0 to 3",
            20,
        ),
        BadInput(
            "page missing",
            _TWO | ints(block_table=[[0, -1], [1, -1]]),
            {},
            InvalidInputError,
            "block_table: expected page",
            20,
        ),
        BadInput("Hq % Hkv", _TWO | {"q": normal(3, 5, 8)}, {}, InvalidInputError, "q: expected a number of heads", 10),
        BadInput("causal", _TWO, {"causal": True}, UnsupportedError, "always causal", 13),
        BadInput("sinks by kv heads", _TWO | {"sinks": normal(2)}, {}, InvalidInputError, "paged_attention: sinks", 11),
    ),
)
