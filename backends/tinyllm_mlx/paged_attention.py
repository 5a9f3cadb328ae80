"""kv_append and paged_attention: keys and values in the pages of a pool that is never copied."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from tinyllm.plugins import runs
from tinyllm_mlx.arrays import begin, widen
from tinyllm_mlx.attention import attention


def kv_append(
    k_pages: mx.array, v_pages: mx.array, k: mx.array, v: mx.array, slots: np.ndarray
) -> tuple[mx.array, mx.array]:
    """k_pages `[P, Hkv, page, D]` and v_pages `[P, Hkv, page, Dv]` with the new rows in their slots.

    Assignment to a slice reuses the memory of an array that nothing else holds, so the pools are changed in place, and
    the arrays that come in are those that are given back.
    """
    page_size = k_pages.shape[2]
    for start, stop in runs(slots, page_size):
        page, first = divmod(int(slots[start]), page_size)
        last = first + stop - start
        k_pages[page, :, first:last] = k[start:stop].swapaxes(0, 1)
        v_pages[page, :, first:last] = v[start:stop].swapaxes(0, 1)
    return k_pages, v_pages


def paged_attention(
    q: mx.array,
    k_pages: mx.array,
    v_pages: mx.array,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    block_table: np.ndarray,
    *,
    sinks: mx.array | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> mx.array:
    """Causal attention `[T, Hq, Dv]` of each token over the keys of its sequence, one sequence after the other."""
    tokens, heads, dim = q.shape
    kv_heads, page_size = k_pages.shape[1:3]
    groups = heads // kv_heads
    if sinks is not None:
        sinks = widen(sinks).reshape(kv_heads, groups, 1, 1)
    settings: dict[str, Any] = {"sinks": sinks, "scale": scale, "causal": True, "window": window, "softcap": softcap}
    starts, outputs = q_start.tolist(), []
    for b, keys in enumerate(kv_len.tolist()):
        start, stop = starts[b], starts[b + 1]
        if start == stop:
            continue
        # pages that lie before every query's window are not read
        first = max(0, keys - (stop - start) - window + 1) // page_size if window is not None else 0
        pages = block_table[b, first : -(-keys // page_size)]
        keys -= first * page_size
        own = widen(q if stop - start == tokens else q[start:stop])
        if stop - start == 1:  # decoding: nothing to transpose
            own = own.reshape(kv_heads, groups, 1, dim)
        else:
            own = own.reshape(stop - start, kv_heads, groups, dim).transpose(1, 2, 0, 3)
        y = attention(own, widen(read(k_pages, pages, keys)), widen(read(v_pages, pages, keys)), **settings)
        y = y if stop - start == 1 else y.transpose(2, 0, 1, 3)
        outputs.append(y.reshape(stop - start, heads, y.shape[-1]))
    if not outputs:
        return mx.zeros((tokens, heads, v_pages.shape[-1]), dtype=q.dtype)
    y = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)
    y = y.astype(q.dtype)
    if tokens == len(outputs):  # one row a sequence
        begin(y)
    return y


def read(pool: mx.array, pages: np.ndarray, keys: int) -> mx.array:
    """The first `keys` keys or values `[Hkv, keys, D]` on some pages: a view of one page, a copy of several."""
    if len(pages) == 1:
        return pool[int(pages[0]), :, :keys]
    kv_heads, page_size, dim = pool.shape[1:]
    taken = mx.take(pool, mx.array(pages.astype(np.int32)), axis=0)
    return taken.swapaxes(0, 1).reshape(kv_heads, len(pages) * page_size, dim)[:, :keys]
