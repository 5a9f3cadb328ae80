"""kv_append and paged_attention: rows written in place, and attention over views of pages."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tinyllm.plugins import neighbours
from tinyllm_numpy.widen import widen


def kv_append(
    k_pages: np.ndarray, v_pages: np.ndarray, k: np.ndarray, v: np.ndarray, slots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """k_pages `[P, Hkv, page, D]` and v_pages `[P, Hkv, page, Dv]` with the new rows in their slots. The arrays that
    come in are written to and given back, unless they are read-only."""
    return _write(k_pages, k, slots), _write(v_pages, v, slots)


def _write(pages: np.ndarray, rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """The pages with rows `[T, Hkv, D]` in the slots `[T]`."""
    if not pages.flags.writeable:
        pages = pages.copy()
    number, place = np.divmod(
        slots.astype(np.int64, copy=False), pages.shape[2]
    )  # a page may be larger than slots of 8 bits can say
    pages[number, :, place] = rows
    return pages


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
    """Causal attention `[T, Hq, Dv]` of each token over the keys of its sequence, one sequence after the other."""
    y = np.empty((*q.shape[:2], v_pages.shape[-1]), q.dtype)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    for row, (first, last), length in zip(block_table, pairwise(q_start.tolist()), kv_len.tolist(), strict=True):
        if first < last:
            # keys before every query's window are not read
            begin = 0 if window is None else max(0, length - (last - first) + 1 - window)
            k, v = (widen(_read(pages, row, begin, length)) for pages in (k_pages, v_pages))
            y[first:last] = _attend(widen(q[first:last]) * factor, k, v, sinks, window, softcap)
    return y


def _read(pages: np.ndarray, row: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Keys or values `begin` to `end - 1` of a sequence, `[Hkv, S, D]`: a view where one page holds them, or neighbours
    of a pool that lies in memory head by head."""
    size = pages.shape[2]
    first, last = begin // size, -(-end // size)
    if last - first == 1:
        view: np.ndarray = pages[row[first], :, begin - first * size : end - first * size]
        return view
    several = pages[row[first] : row[first] + last - first] if neighbours(row[first:last]) else pages[row[first:last]]
    own: np.ndarray = several.swapaxes(0, 1).reshape(pages.shape[1], (last - first) * size, pages.shape[3])
    return own[:, begin - first * size : end - first * size]


def _attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, sinks: np.ndarray | None, window: int | None, softcap: float | None
) -> np.ndarray:
    """Attention `[L, Hq, Dv]` of q `[L, Hq, D]`, scaled already, over k `[Hkv, S, D]` and v `[Hkv, S, Dv]`, by
    `sum_j exp(s_j - m) v_j / sum_j exp(s_j - m)`, where m is the largest score and the sink is in the second sum.

    The queries of a kv head are rows of one product, so that keys are read once. The last query stands on the last key,
    so every row has a key, and m is finite.
    """
    length, heads, dim = q.shape
    kv_heads, keys, _ = k.shape
    groups = heads // kv_heads
    rows = q.reshape(length, kv_heads, groups, dim).transpose(1, 2, 0, 3).reshape(kv_heads, groups * length, dim)
    scores = (rows @ k.swapaxes(1, 2)).reshape(kv_heads, groups, length, keys)
    if softcap is not None:
        scores = softcap * np.tanh(scores / softcap)
    if length > 1 or window is not None:
        distance = np.arange(keys - length, keys)[:, None] - np.arange(keys)
        scores[..., (distance < 0) if window is None else (distance < 0) | (distance >= window)] = -np.inf
    top = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sinks = widen(sinks).reshape(kv_heads, groups, 1, 1)
        top = np.maximum(top, sinks)
    scores -= top
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks - top)
    y: np.ndarray = (scores.reshape(kv_heads, groups * length, keys) @ v).reshape(
        kv_heads, groups, length, v.shape[-1]
    ) / total
    return y.transpose(2, 0, 1, 3).reshape(length, heads, v.shape[-1])
