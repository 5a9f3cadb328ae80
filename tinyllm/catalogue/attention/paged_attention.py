"""paged_attention: causal attention of a flat batch of tokens over the pages of a cache."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.errors import attention_errors, finite, shift
from tinyllm.catalogue.attention.formula import (
    REFUSED,
    SETTINGS,
    attend_groups,
    attention_flops,
    check_heads,
    check_scale,
    visible,
)
from tinyllm.catalogue.attention.kv_append import check_pages
from tinyllm.catalogue.attention.paged_attention_cases import BAD_INPUTS, CASES
from tinyllm.errors import invalid
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
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
    """The first `length` keys or values `[Hkv, length, D]` of the sequence whose pages `row` names."""
    _, heads, page, dim = pages.shape
    count = -(-length // page)
    of_sequence = xp.take(pages, xp.asarray(row[:count]), axis=0)
    return xp.reshape(xp.permute_dims(of_sequence, (1, 0, 2, 3)), (heads, count * page, dim))[:, :length, :]


def _check(call: Call) -> None:
    q, k = call.shape("q"), call.shape("k_pages")
    check_heads(call, q[1], k[1])
    check_scale(call, q[2])
    check_pages(call)
    starts, sequences = call.shape("q_start")[0], call.shape("kv_len")[0]
    if isinstance(starts, int) and isinstance(sequences, int) and starts != sequences + 1:
        raise invalid("paged_attention", "q_start", f"{sequences + 1} numbers for {sequences} sequences", starts)


def _check_values(call: Call, values: Any) -> None:
    """Holds `q_start`, `kv_len` and `block_table` to one another and to the pool. A few numpy calls over all sequences
    at once, since it runs at each call."""
    # they may be of any integer dtype, unsigned ones too, and differences of them are taken
    q_start, kv_len, block_table = (
        values[name].astype(np.int64, copy=False) for name in ("q_start", "kv_len", "block_table")
    )
    tokens, (pages, _, page, _) = call.shape("q")[0], call.shape("k_pages")
    new_tokens = np.diff(q_start)
    if q_start[0] != 0 or q_start[-1] != tokens or (new_tokens < 0).any():
        raise invalid("paged_attention", "q_start", f"numbers rising from 0 to {tokens}", q_start.tolist())
    if (kv_len < new_tokens).any():
        expected = f"at least the {new_tokens.tolist()} new tokens of each sequence"
        raise invalid("paged_attention", "kv_len", expected, kv_len.tolist())
    columns = block_table.shape[1]
    needed = -(-kv_len // page)
    if (needed > columns).any():
        expected = f"at most {columns * page}, what {columns} pages of {page} hold"
        raise invalid("paged_attention", "kv_len", expected, kv_len.tolist())
    read = block_table[np.arange(columns) < needed[:, None]]  # row by row, as many as each sequence needs
    if read.size and not 0 <= int(read.min()) <= int(read.max()) < pages:
        got = f"{int(read.min())} to {int(read.max())}"
        raise invalid("paged_attention", "block_table", f"page numbers 0 to {pages - 1}", got)
    named = np.zeros(pages, bool)
    named[read] = True
    if np.count_nonzero(named) < read.size:  # by two sequences, which may share a page, or twice by one
        _check_rows(read, needed, pages)


def _check_rows(read: np.ndarray, needed: np.ndarray, pages: int) -> None:
    """Refuses a page that stands twice in one sequence's row: its tokens would count as keys of two places.

    read: the page numbers of all rows one after the other, `needed[b]` of them for sequence b.
    """
    row_and_page = np.sort(np.repeat(np.arange(len(needed)), needed) * pages + read)
    repeated = row_and_page[1:][row_and_page[1:] == row_and_page[:-1]]
    if repeated.size:
        row, number = divmod(int(repeated[0]), pages)
        raise invalid(
            "paged_attention", "block_table", "no page twice for a sequence", f"page {number} twice in row {row}"
        )


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """That of attention, for each sequence over its own keys."""
    q_start, sinks = inputs["q_start"], inputs.get("sinks")
    settings = {name: attributes.get(name) for name in ("scale", "softcap")}
    parts = [np.zeros((0, *outputs.shape[1:]))]
    for b, length in enumerate(inputs["kv_len"].tolist()):
        q = np.swapaxes(inputs["q"][q_start[b] : q_start[b + 1]], 0, 1)
        pages = (inputs[name] for name in ("k_pages", "v_pages"))
        k, v = (finite(_gather(np, array, inputs["block_table"][b], length)) for array in pages)
        seen = visible(np, q.shape[1], length, True, attributes.get("window"))
        weights = attend_groups(np, q, k, v, seen=seen, sinks=sinks, **settings)[1]
        errors = attention_errors(q, k, v, weights, **settings, shifts=shift(None, None, sinks))[1]
        parts.append(np.swapaxes(errors, 0, 1))
    return np.concatenate(parts)


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    return max(*inputs["kv_len"].tolist(), inputs["q"].shape[-1], 0) ** 0.5 * scale


def _unread(inputs: Any, attributes: Any) -> Any:
    """True in all slots but those of keys that some token attends to."""
    q_start, block_table, page = inputs["q_start"], inputs["block_table"], inputs["k_pages"].shape[2]
    free = np.ones((inputs["k_pages"].shape[0], page), bool)
    for b, length in enumerate(inputs["kv_len"].tolist()):
        new = int(q_start[b + 1]) - int(q_start[b])
        keys = np.flatnonzero(np.any(visible(np, new, length, True, attributes.get("window")), axis=0))
        free[block_table[b, keys // page], keys % page] = False
    return {name: np.broadcast_to(free[:, None, :, None], inputs[name].shape) for name in ("k_pages", "v_pages")}


def _keys(call: Call) -> int:
    """The most keys that a token may attend to. A call knows the shape of the block table and not the lengths, so bench
    cases nearly fill it."""
    return int(call.shape("block_table")[1] * call.shape("k_pages")[2])


def _flops(call: Call) -> int:
    """Of the products with the keys that each token sees, where all sequences have as many tokens and keys."""
    q, v = call.shape("q"), call.shape("v_pages")
    new, keys = _each(call)
    hidden = max(0, keys - new)
    seen = sum(min(keys, place, call.attributes["window"] or keys) for place in range(hidden + 1, hidden + new + 1))
    return attention_flops(call, (q[0], q[1], seen), q[2], v[3]) // max(1, new)


def _bytes(call: Call) -> int:
    """q and the keys and values that some token sees are read, and y is written; the rest of the pool is not
    touched."""
    q, k, v = call.shape("q"), call.shape("k_pages"), call.shape("v_pages")
    new, keys = _each(call)
    seen = min(keys, (call.attributes["window"] or keys) + max(0, new - 1))
    rows = call.shape("block_table")[0] * seen * k[1]
    numbers, stored = prod(q) + prod(q[:2]) * v[3], rows * (k[3] + v[3])
    return int(sum(n * numpy_dtype(call.dtype(name)).itemsize for n, name in ((numbers, "q"), (stored, "k_pages"))))


def _each(call: Call) -> tuple[int, int]:
    """New tokens and keys of a sequence, if all have as many: the keys are those of all its pages."""
    return -(-call.shape("q")[0] // max(1, call.shape("block_table")[0])), _keys(call)


paged_attention = OpSpec(
    name="paged_attention",
    summary="Causal grouped-query attention of a flat batch of tokens, each sequence over its own pages of a "
    "shared cache.",
    formula="tokens q_start[b] .. q_start[b+1]-1 of sequence b: gqa(q, k, v, causal) over the first kv_len[b] "
    "keys in pages block_table[b]",
    source="Kwon et al. 2023, arXiv:2309.06180",
    inputs=(
        Input("q", "T Hq D", about="new tokens of all sequences, one after the other"),
        Input("k_pages", "P Hkv page D", "S", about="the new tokens' keys are already in it"),
        Input("v_pages", "P Hkv page Dv", "S"),
        Input("q_start", "B1", "int", about="[B + 1]: where each sequence begins, from 0 to T"),
        Input("kv_len", "B", "int", about="keys of each sequence, the new ones included"),
        Input(
            "block_table",
            "B M",
            "int",
            about="page numbers, none twice in a row; entries past what kv_len needs are never read",
        ),
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
    sums=_sums,
    more_cases="tinyllm.catalogue.cases.pages:paged_attention",
    unread=_unread,
    host=("q_start", "kv_len", "block_table"),
    notes=(
        "Always causal, aligned to the end: a sequence's last token sees all its keys. Prefill, decode and "
        "chunks differ in numbers alone.",
        "Pages and slots that belong to nobody may hold NaN. A cache in one piece is a pool of one large page "
        "for each sequence.",
        "A sequence may have no new tokens: it gives no output.",
        "Pages may be of another dtype than q: their numbers are widened, and sums are as wide as ever.",
        "Sequences may share pages, as those with a common prefix do.",
    ),
    refused=REFUSED
    | {"causal": "it is always causal", "mask": "there are no masks over pages: use ops.gqa on a cache in one piece"},
    cases=CASES,
    bad_inputs=BAD_INPUTS,
)
