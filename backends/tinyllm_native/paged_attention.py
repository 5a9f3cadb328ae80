"""kv_append and paged_attention: rows written in place, and attention over pages where they lie."""

from __future__ import annotations

import numpy as np

from tinyllm_native.arrays import contiguous, int32, of_dtype
from tinyllm_native.library import run


def strides_of(pages: np.ndarray) -> tuple[int, ...]:
    """Bytes from page to page, head to head and token to token of `[P, Hkv, page, D]`."""
    return pages.strides[:3]


def in_place(pages: np.ndarray) -> np.ndarray:
    """Pages that the library can read where they lie: the numbers of a token are neighbours."""
    return pages if pages.strides[-1] == pages.itemsize or pages.shape[-1] < 2 else pages.copy()


def kv_append(
    k_pages: np.ndarray, v_pages: np.ndarray, k: np.ndarray, v: np.ndarray, slots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """k_pages `[P, Hkv, page, D]` and v_pages `[P, Hkv, page, Dv]` with the new rows in their slots, rounded
    to the dtype of the pages. The arrays that come in are written to and given back, unless they are read-only."""
    k_pages, v_pages = (in_place(pages) if pages.flags.writeable else pages.copy() for pages in (k_pages, v_pages))
    k, v = contiguous(k), contiguous(v)
    tokens, heads, dim = k.shape
    value_dim = v.shape[-1]
    sizes = [tokens, heads * dim, heads, k_pages.shape[2], dim, value_dim]
    sizes += [heads * dim * k.itemsize, heads * value_dim * v.itemsize, of_dtype(k), of_dtype(k_pages)]
    run("kv_append", [k_pages, v_pages, k, v, int32(slots)], [*sizes, *strides_of(k_pages), *strides_of(v_pages)])
    return k_pages, v_pages


def paged_attention(
    q: np.ndarray,
    k_pages: np.ndarray,
    v_pages: np.ndarray,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    block_table: np.ndarray,
    *,
    sinks: np.ndarray | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> np.ndarray:
    """Causal attention `[T, Hq, Dv]` of each token over the keys of its sequence."""
    k_pages, v_pages, q = in_place(k_pages), in_place(v_pages), contiguous(q)
    (tokens, heads, dim), value_dim = q.shape, v_pages.shape[-1]
    y = np.empty((tokens, heads, value_dim), q.dtype)
    sinks = None if sinks is None else contiguous(sinks)
    sizes = [tokens, heads, k_pages.shape[1], dim, value_dim, k_pages.shape[2], len(kv_len), block_table.shape[1]]
    sizes += [heads * dim * q.itemsize, heads * value_dim * q.itemsize, *strides_of(k_pages), *strides_of(v_pages)]
    sizes += [of_dtype(q), of_dtype(k_pages), 0 if sinks is None else of_dtype(sinks), window or 0]
    arrays = [q, k_pages, v_pages, int32(q_start), int32(kv_len), int32(block_table), sinks, y]
    run("paged_attention", arrays, sizes, [dim**-0.5 if scale is None else scale, softcap or 0.0])
    return y
