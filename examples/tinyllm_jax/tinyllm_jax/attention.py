"""Attention: plain, in groups of heads, over pages."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax.numpy as jnp

from tinyllm_jax.jitted import jitted
from tinyllm_jax.layer import widen


def visible(length: int, keys: int, causal: bool, window: Any, end: Any = None) -> Any:
    """Bool [L, S], True = attend. The last query stands on the last key, or on key `end - 1`."""
    key = jnp.arange(keys)
    distance = jnp.arange(length)[:, None] + ((keys if end is None else end) - length) - key
    seen = jnp.ones(distance.shape, bool) if end is None else jnp.broadcast_to(key < end, distance.shape)
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance < window) & (causal | (distance > -window))
    return seen


def split_mask(mask: Any, seen: Any) -> tuple[Any, Any]:
    """A mask as what may be seen (bool) and what is added to the scores (float, or None)."""
    if mask is None:
        return seen, None
    return (seen & mask, None) if mask.dtype == bool else (seen & (mask > -jnp.inf), widen(mask))


def attend(q: Any, k: Any, v: Any, seen: Any, added: Any, scale: Any, softcap: Any, sinks: Any) -> Any:
    """The output [*B, L, Dv], in float32 or better."""
    q, k, v = widen(q), widen(k), widen(v)
    scores = q @ k.swapaxes(-1, -2) * (max(q.shape[-1], 1) ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if added is not None:
        scores = scores + added
    scores = jnp.where(seen, scores, -jnp.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-jnp.inf)
    top = top if sinks is None else jnp.maximum(top, sinks)
    top = jnp.where(top > -jnp.inf, top, 0)  # a row with nothing to attend to
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    total = total if sinks is None else total + jnp.exp(sinks - top)
    weights = weights / jnp.where(total > 0, total, 1)
    used = jnp.any(seen, axis=-2)[..., None]
    return weights @ jnp.where(used, v, 0)  # 0 * NaN is NaN


def attend_groups(q: Any, k: Any, v: Any, seen: Any, added: Any, scale: Any, softcap: Any, sinks: Any) -> Any:
    """The queries of a group become rows of one product [G*L, D] [D, S]: nothing is repeated, each key is read once."""
    heads, length, dim = q.shape[-3:]
    kv_heads, keys = k.shape[-3:-1]
    rows = heads // kv_heads * length

    def stacked(mask: Any) -> Any:
        full = jnp.broadcast_to(mask, (*mask.shape[:-3], heads, length, keys))
        return full.reshape(*mask.shape[:-3], kv_heads, rows, keys)

    if sinks is not None:
        sinks = jnp.repeat(widen(sinks), length).reshape(kv_heads, rows, 1)
    added = None if added is None else stacked(added)
    q = q.reshape(*q.shape[:-3], kv_heads, rows, dim)
    y = attend(q, k, v, stacked(seen), added, scale, softcap, sinks)
    return y.reshape(*y.shape[:-3], heads, length, y.shape[-1])


@jitted("causal")
def sdpa(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    sinks: Any = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Any:
    """softmax(scale * Q K^T + mask) V."""
    seen, added = split_mask(mask, visible(q.shape[-2], k.shape[-2], causal, window))
    sinks = None if sinks is None else widen(sinks)[..., None, None]
    return attend(q, k, v, seen, added, scale, softcap, sinks).astype(q.dtype)


@jitted("causal")
def gqa(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    key_mask: Any = None,
    kv_lengths: Any = None,
    sinks: Any = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Any:
    """Query heads j*G .. (j+1)*G-1 attend to kv head j."""
    end = None if kv_lengths is None else kv_lengths.astype(jnp.int64)[..., None, None, None]
    seen, added = split_mask(mask, visible(q.shape[-2], k.shape[-2], causal, window, end))
    if key_mask is not None:
        seen = seen & key_mask[..., None, None, :]
    return attend_groups(q, k, v, seen, added, scale, softcap, sinks).astype(q.dtype)


@jitted(consumes=("k_pages", "v_pages"))
def kv_append(k_pages: Any, v_pages: Any, k: Any, v: Any, slots: Any) -> tuple[Any, Any]:
    """Token t goes to slot slots[t]. The pages are given away, so that the new ones may lie where they lay."""
    page, place = jnp.divmod(slots, k_pages.shape[2])
    put = [pages.at[page, :, place].set(x.astype(pages.dtype)) for pages, x in ((k_pages, k), (v_pages, v))]
    return put[0], put[1]


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
) -> Any:
    """Shapes must not follow the lengths, or each token would be compiled for: those of the longest sequence hold for
    all."""
    longest = max((last - first for first, last in pairwise(q_start.tolist())), default=0)
    return paged(q, k_pages, v_pages, q_start, kv_len, block_table, scale, window, softcap, sinks, length=longest)


@jitted("length")
def paged(
    q: Any,
    k_pages: Any,
    v_pages: Any,
    q_start: Any,
    kv_len: Any,
    block_table: Any,
    scale: Any,
    window: Any,
    softcap: Any,
    sinks: Any,
    *,
    length: int,
) -> Any:
    """Each sequence has its last `length` tokens as queries, and the keys of its row of pages; what is not its own is
    hidden."""
    if not q.size or not block_table.size:
        return jnp.zeros((*q.shape[:2], v_pages.shape[-1]), q.dtype)
    size = k_pages.shape[2]
    own = jnp.arange(block_table.shape[1]) * size < kv_len[:, None]
    table = jnp.where(own, block_table, 0)

    def gathered(cache: Any) -> Any:
        pages = cache[table].swapaxes(1, 2)  # [B, Hkv, M, page, D]
        return pages.reshape(*pages.shape[:2], pages.shape[2] * size, pages.shape[-1])

    k, v = gathered(k_pages), gathered(v_pages)
    token = q_start[1:, None] - length + jnp.arange(length)  # [B, L]
    queries = q[jnp.maximum(token, 0)].swapaxes(1, 2)  # [B, Hq, L, D]
    seen = visible(length, k.shape[-2], True, window, kv_len[:, None, None, None])
    seen = seen & (token >= q_start[:-1, None])[:, None, :, None]
    y = attend_groups(queries, k, v, seen, None, scale, softcap, sinks).swapaxes(1, 2)
    flat = jnp.arange(q.shape[0])
    sequence = jnp.searchsorted(q_start, flat, side="right") - 1
    return y[sequence, flat - q_start[sequence + 1] + length].astype(q.dtype)
