"""The paged cache, and what goes wrong in it: slots, tables, borders of pages."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tests.conformance.zoo.attention import attend, visible
from tests.conformance.zoo.mutant import Mutant


def kv_append(k_pages: Any, v_pages: Any, k: Any, v: Any, slots: Any, *, mistake: str | None = None) -> Any:
    count, _, page, _ = k_pages.shape
    slots = slots.astype(np.int64)
    if mistake == "neighbouring slot":
        slots = np.minimum(slots + 1, count * page - 1)
    if mistake == "slots in order" and len(slots):
        slots = np.minimum(slots[0] + np.arange(len(slots)), count * page - 1)
    number, place = np.divmod(slots, page)
    k_pages, v_pages = k_pages.copy(), v_pages.copy()
    k_pages[number, :, place] = k
    v_pages[number, :, place] = (
        k[..., : v.shape[-1]] if mistake == "keys for values" and k.shape[-1] >= v.shape[-1] else v
    )
    return k_pages, v_pages


def paged_attention(
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
    mistake: str | None = None,
) -> Any:
    y = np.zeros((*q.shape[:2], v_pages.shape[-1]), q.dtype)
    groups, page = q.shape[1] // k_pages.shape[1], k_pages.shape[2]
    sinks = None if sinks is None else sinks[:, None, None]
    for b, (first, last) in enumerate(pairwise(q_start.tolist())):
        keys, row = int(kv_len[b]), block_table[b]
        if mistake == "table of the first sequence":
            row = block_table[0]
        if mistake == "columns of the table swapped" and keys > page:
            row = row[[1, 0, *range(2, len(row))]]
        if mistake == "partial page left out" and keys > page:
            keys = keys // page * page
        if first == last or not keys:
            continue
        if mistake == "whole pages read":
            keys = -(-keys // page) * page
        k, v = (_gather(pages, row[: -(-keys // page)], keys, groups) for pages in (k_pages, v_pages))
        reach = None if mistake == "window ignored in decoding" and last - first == 1 else window
        seen = visible(last - first, k.shape[-2], True, reach)
        y[first:last] = np.swapaxes(
            attend(np.swapaxes(q[first:last], 0, 1), k, v, seen, None, sinks, scale, softcap), 0, 1
        )
    return y


def _gather(pages: Any, own: Any, keys: int, groups: int) -> Any:
    """Keys or values of a sequence, a head of them for each query head."""
    rows = np.swapaxes(pages[own], 0, 1)
    return np.repeat(rows.reshape(pages.shape[1], len(own) * pages.shape[2], pages.shape[3])[:, :keys], groups, axis=0)


MUTANTS = (
    Mutant("neighbouring slot", "kv_append", "Counted from one: each token is written over its neighbour.", kv_append),
    Mutant(
        "slots in order",
        "kv_append",
        "All tokens after the first slot: right in prefill, wrong for a batch of sequences.",
        kv_append,
    ),
    Mutant("keys for values", "kv_append", "The same array is written twice.", kv_append),
    Mutant(
        "partial page left out", "paged_attention", "Keys in the last, half-filled page are forgotten.", paged_attention
    ),
    Mutant(
        "whole pages read", "paged_attention", "Slots past the end of a sequence are read as keys.", paged_attention
    ),
    Mutant(
        "columns of the table swapped", "paged_attention", "Pages of a sequence in the wrong order.", paged_attention
    ),
    Mutant(
        "table of the first sequence",
        "paged_attention",
        "All sequences read the pages of the first: a neighbour's text leaks.",
        paged_attention,
    ),
    Mutant(
        "window ignored in decoding", "paged_attention", "The path for single tokens sees all keys.", paged_attention
    ),
)
