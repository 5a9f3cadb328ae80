"""Attention from matrix products, exp, max and sum: sdpa and gqa, and the core that mha and paged_attention share.

Excluded keys get a bias of -inf. Keys that positions hide from every query are cut off, and those that a mask hides are
set to 0, since they may hold NaN or inf.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np

from tinyllm_mlx.arrays import LOWEST, TINY, exp, row_sums, widen

BLOCK = 256
"""Queries of long causal calls are taken this many at a time: each block leaves out the keys after it, and its scores
stay in the processor's cache.

Blocks are of queries, never of keys, so each softmax has its whole row at once. The online softmax of FlashAttention
(Milakov and Gimelshein 2018, arXiv:1805.02867; arXiv:2205.14135), which multiplies the sums of earlier blocks of keys
by `exp(old max - new max)`, is not needed.
"""


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    sinks: mx.array | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    bias: mx.array | None = None,
) -> mx.array:
    """The attention `[*B, G, L, Dv]` of groups of query heads q `[*B, G, L, D]`, each group over the k `[*B, S, D]` and
    v `[*B, S, Dv]` of one kv head. All are float32.

    sinks: broadcastable to `[*B, G, 1, 1]`. bias: what masks add to the scores, broadcastable to `[*B, G, L, S]`.
    """
    length, keys = q.shape[-2], k.shape[-2]
    settings: dict[str, Any] = {"sinks": sinks, "scale": scale, "softcap": softcap}
    if length == 0 or keys == 0:
        return attend(q, k, v, **settings)
    if bias is None:
        first = max(0, keys - length - window + 1) if window is not None else 0
        k, v, keys = k[..., first:, :], v[..., first:, :], keys - min(first, keys)
        if causal and length > BLOCK:
            blocks = []
            for start in range(0, length, BLOCK):
                stop = min(start + BLOCK, length)
                seen = max(0, keys - length + stop)
                part = q[..., start:stop, :], k[..., :seen, :], v[..., :seen, :]
                blocks.append(attention(*part, causal=True, window=window, **settings))
            return mx.concatenate(blocks, axis=-2)
        return attend(q, k, v, bias=position_bias(length, keys, causal, window), **settings)
    places = position_bias(length, keys, causal, window)
    bias = bias if places is None else bias + places
    return attend(q, *clean(k, v, bias), bias=bias, **settings)


def attend(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float | None,
    softcap: float | None,
    bias: mx.array | None = None,
    sinks: mx.array | None = None,
) -> mx.array:
    """The output `[*B, G, L, Dv]`: `sum_j exp(s_j - m) v_j / z` with `z = sum_j exp(s_j - m) + exp(sink - m)`, m the
    largest score or sink of a row. Dividing the output by z in place of the weights saves a pass over them."""
    groups, length, dim = q.shape[-3:]
    keys = k.shape[-2]
    scale = dim**-0.5 if scale is None else scale
    lead = np.broadcast_shapes(q.shape[:-3], k.shape[:-2], v.shape[:-2])
    if keys == 0 or 0 in lead or groups * length == 0:
        return mx.zeros((*lead, groups, length, v.shape[-1]))
    # the queries of a group are rows of one product, so keys and values are neither repeated nor copied
    scores = (q * scale).reshape(*q.shape[:-3], groups * length, dim) @ k.swapaxes(-1, -2)
    scores = scores.reshape(*scores.shape[:-2], groups, length, keys)
    if softcap is not None:
        scores = softcap * mx.tanh(scores * (1 / softcap))
    if bias is not None:
        scores = scores + bias
    top = mx.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        top = mx.maximum(top, sinks)
    if bias is not None:  # a row with nothing to attend to: with a finite m its weights are exp(-inf) = 0
        top = mx.maximum(top, LOWEST)
    weights = exp(scores - top)
    total = row_sums(weights)
    if sinks is not None:
        total = total + exp(sinks - top)
    if bias is not None:
        total = mx.maximum(total, TINY)  # 0 / tiny = 0 there
    y = weights.reshape(*scores.shape[:-3], groups * length, keys) @ v
    return y.reshape(*y.shape[:-2], groups, length, v.shape[-1]) / total


@lru_cache(maxsize=32)
def position_bias(length: int, keys: int, causal: bool, window: int | None) -> mx.array | None:
    """A bias `[L, S]` of 0 where positions allow a key and of -inf elsewhere, or None where they allow all keys. The
    last query stands on the last key."""
    if (not causal and window is None) or length * keys == 0:
        return None
    distance = np.arange(length, dtype=np.int32)[:, None] + (keys - length) - np.arange(keys, dtype=np.int32)
    seen = distance >= 0 if causal else np.full(distance.shape, True)
    if window is not None:
        seen &= np.abs(distance) < window
    return None if seen.all() else mx.array(np.where(seen, np.float32(0), np.float32(-np.inf)))


def mask_bias(mask: mx.array) -> mx.array:
    """A bool or float mask as float32 numbers to be added to the scores, in the shape of the mask."""
    return mx.where(mask, mx.zeros(mask.shape), -mx.inf) if mask.dtype == mx.bool_ else mask.astype(mx.float32)


def clean(k: mx.array, v: mx.array, bias: mx.array) -> tuple[mx.array, mx.array]:
    """k and v with zeros for the keys that the bias `[*B, G, L, S]` hides from every query of their head."""
    if bias.size == 0:
        return k, v
    axes = tuple(range(-min(3, bias.ndim), -1))
    used = mx.max(bias, axis=axes) > -mx.inf if axes else bias > -mx.inf
    used = used[..., None]
    return mx.where(used, k, mx.zeros_like(k)), mx.where(used, v, mx.zeros_like(v))


def sdpa(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    mask: mx.array | None = None,
    sinks: mx.array | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> mx.array:
    """The attention `[*B, L, Dv]` of q over k and v, in which each head is a group of one query head."""
    bias = None
    if mask is not None:
        bias = mask_bias(mask)
        bias = bias if bias.ndim == 2 else bias[..., None, :, :]
    if sinks is not None:
        sinks = widen(sinks)[..., None, None, None]
    grouped = widen(q)[..., None, :, :]
    y = attention(
        grouped, widen(k), widen(v), bias=bias, sinks=sinks, scale=scale, causal=causal, window=window, softcap=softcap
    )
    return y.squeeze(-3).astype(q.dtype)


def grouped_mask(mask: mx.array | None, key_mask: mx.array | None, kv_heads: int) -> mx.array | None:
    """What the masks of grouped attention, `[L, S]` or `[*B, Hq, L, S]` and `[*B, S]`, add to the scores together:
    broadcastable to `[*B, Hkv, G, L, S]`, None without masks."""
    bias = None
    if mask is not None:
        bias = mask_bias(mask)
        if bias.ndim > 2:
            heads = bias.shape[-3]
            split = (1, 1) if heads == 1 else (kv_heads, heads // kv_heads)
            bias = bias.reshape(*bias.shape[:-3], *split, *bias.shape[-2:])
    if key_mask is not None:
        keys = mask_bias(key_mask)[..., None, None, None, :]
        bias = keys if bias is None else bias + keys
    return bias


def gqa(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    mask: mx.array | None = None,
    key_mask: mx.array | None = None,
    kv_lengths: np.ndarray | None = None,
    sinks: mx.array | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> mx.array:
    """The attention `[*B, Hq, L, Dv]` of q over k and v, whose kv head j serves the G query heads from j G on."""
    heads, length = q.shape[-3:-1]
    kv_heads = k.shape[-3]
    groups = heads // kv_heads
    wide = widen(q).reshape(*q.shape[:-3], kv_heads, groups, *q.shape[-2:])
    bias = grouped_mask(mask, key_mask, kv_heads)
    if sinks is not None:
        sinks = widen(sinks).reshape(kv_heads, groups, 1, 1)
    settings: dict[str, Any] = {"sinks": sinks, "scale": scale, "causal": causal, "window": window, "softcap": softcap}
    if kv_lengths is None:
        y = attention(wide, widen(k), widen(v), bias=bias, **settings)
    else:
        y = _by_length(wide, widen(k), widen(v), bias, np.asarray(kv_lengths), settings)
    return y.reshape(*y.shape[:-4], heads, length, v.shape[-1]).astype(q.dtype)


def _by_length(
    q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None, kv_lengths: np.ndarray, settings: dict[str, Any]
) -> mx.array:
    """The attention `[*B, Hkv, G, L, Dv]` of each sequence over the keys it has: one by one, or all at once where they
    have equally many."""
    lead = np.broadcast_shapes(q.shape[:-4], k.shape[:-3], v.shape[:-3], kv_lengths.shape)
    lengths = set(kv_lengths.ravel().tolist())
    if bias is not None and bias.ndim > 2:
        bias = mx.broadcast_to(bias, (*lead, *bias.shape[len(bias.shape) - 4 :]))
    if len(lengths) == 1:
        k, v, bias = _cut(k, v, bias, lengths.pop())
        return attention(q, k, v, bias=bias, **settings)
    q, k, v = (mx.broadcast_to(a, (*lead, *a.shape[a.ndim - n :])) for a, n in ((q, 4), (k, 3), (v, 3)))
    parts = []
    for index in np.ndindex(*lead):
        own = None if bias is None else bias if bias.ndim == 2 else bias[index]
        k_cut, v_cut, own = _cut(k[index], v[index], own, int(np.broadcast_to(kv_lengths, lead)[index]))
        parts.append(attention(q[index], k_cut, v_cut, bias=own, **settings))
    if not parts:
        return mx.zeros((*lead, *q.shape[-4:-1], v.shape[-1]))
    return mx.stack(parts).reshape(*lead, *parts[0].shape)


def _cut(k: mx.array, v: mx.array, bias: mx.array | None, keys: int) -> tuple[mx.array, mx.array, mx.array | None]:
    """The first `keys` of k and v, and the part of the bias that belongs to them."""
    if bias is not None and bias.shape[-1] > 1:
        bias = bias[..., :keys]
    return k[..., :keys, :], v[..., :keys, :], bias
