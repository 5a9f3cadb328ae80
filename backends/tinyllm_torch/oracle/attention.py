"""Attention by F.scaled_dot_product_attention, and with a softcap by flex_attention.

What PyTorch says in other words is said in its words: `causal`, aligned to the end, and `window` as a mask of
triangles; `kv_lengths` by cutting each sequence's keys; a sink as one more key, whose score the mask sets and whose
value is 0.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def visible(length: int, keys: int, causal: bool, window: int | None) -> Any:
    """Bool `[L, S]`, the last query on the last key; None: all."""
    if not causal and window is None:
        return None
    seen, diagonal = torch.ones(length, keys, dtype=torch.bool), keys - length
    if window is not None:
        seen = seen.triu(diagonal - window + 1)
    return seen.tril(diagonal if causal or window is None else diagonal + window - 1)


def intersected(*masks: Any) -> Any:
    """Bool masks as one; None stands for no mask."""
    seen = None
    for mask in masks:
        if mask is not None:
            seen = mask if seen is None else seen & mask
    return seen


def attend(
    q: Any,
    k: Any,
    v: Any,
    *,
    seen: Any = None,
    added: Any = None,
    sinks: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Any:
    """`[B, Hq, L, D]` on `[B, Hkv, S, D]`; masks broadcast to `[B, Hq, L, S]`, sinks `[Hq]`."""
    scores = (*q.shape[:3], k.shape[2])
    mask: Any = None if seen is None else seen.expand(scores)
    if added is not None or sinks is not None or softcap is not None:
        added = torch.zeros((), dtype=q.dtype) if added is None else added
        mask = (added if mask is None else torch.where(mask, added, -torch.inf)).expand(scores)
    if sinks is not None:
        mask = torch.cat((mask, sinks[:, None, None].expand(*scores[:3], 1)), dim=-1)
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    grouped = q.shape[1] != k.shape[1]
    if softcap is None or not q.numel() or not scores[-1]:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return _capped(q, k, v, mask, scale, softcap, scores[-1])


def _capped(q: Any, k: Any, v: Any, mask: Any, scale: float | None, softcap: float, keys: int) -> Any:
    """flex_attention, uncompiled; the key that stands for a sink has no score of its own to cap."""
    from torch.nn.attention.flex_attention import flex_attention

    def change(score: Any, batch: Any, head: Any, query: Any, key: Any) -> Any:
        return torch.where(key < keys, softcap * torch.tanh(score / softcap), 0.0) + mask[batch, head, query, key]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is slow uncompiled
        return flex_attention(q, k, v, score_mod=change, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def split_mask(mask: Any) -> tuple[Any, Any]:
    """A mask as (bool part, float part)."""
    return (mask, None) if mask is None or mask.dtype == torch.bool else (None, mask)


def sdpa(
    q: Any,
    k: Any,
    v: Any,
    *,
    sinks: Any = None,
    **settings: Any,
) -> Any:
    """gqa with a kv head for each head; without an axis of heads, of one head."""
    lead = np.broadcast_shapes(*(a.shape[:-2] for a in (q, k, v)))
    q, k, v = (a.expand(*(lead or (1,)), *a.shape[-2:]) for a in (q, k, v))
    y = gqa(q, k, v, sinks=None if sinks is None else sinks.reshape(-1), **settings)
    return y.reshape(*lead, *y.shape[-2:])


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
    """Sequence by sequence where they have lengths of their own."""
    lead = np.broadcast_shapes(*(a.shape[:-3] for a in (q, k, v)))
    shape = (*lead, *q.shape[-3:-1], v.shape[-1])
    q, k, v = (_batched(a, lead) for a in (q, k, v))
    if mask is not None and mask.ndim > 2:
        mask = _batched(mask, lead)
    if key_mask is not None:
        key_mask = _batched(key_mask[..., None, None, :], lead)
    batch, keys = q.shape[0], k.shape[2]
    same = kv_lengths is None
    parts = [slice(None)] if same else [slice(b, b + 1) for b in range(batch)]
    lengths = [keys] if same else kv_lengths.reshape(-1).tolist()
    outputs = [q.new_zeros(0, q.shape[1], q.shape[2], v.shape[-1])]
    for own, end in zip(parts, lengths, strict=True):
        here = (
            None
            if mask is None
            else (mask[own] if mask.ndim > 2 else mask).expand(*(-1,) * (mask.ndim - 1), keys)[..., :end]
        )
        seen, added = split_mask(here)
        padding = None if key_mask is None else key_mask[own].expand(-1, 1, 1, keys)[..., :end]
        seen = intersected(visible(q.shape[2], end, causal, window), seen, padding)
        outputs.append(
            attend(
                q[own],
                k[own, :, :end],
                v[own, :, :end],
                seen=seen,
                added=added,
                sinks=sinks,
                scale=scale,
                softcap=softcap,
            )
        )
    return torch.cat(outputs).reshape(shape)


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
    """Sequence by sequence, each one's pages indexed out of the pool."""
    outputs = [q.new_zeros(0, q.shape[1], v_pages.shape[-1])]
    for b, end in enumerate(kv_len.tolist()):
        own = q[q_start[b] : q_start[b + 1]].transpose(0, 1)[None]
        if own.shape[2]:
            place, page = torch.arange(end), k_pages.shape[2]
            slots = (block_table[b, place // page], place % page)
            k, v = (pages.transpose(1, 2)[slots].transpose(0, 1)[None] for pages in (k_pages, v_pages))
            y = attend(
                own, k, v, seen=visible(own.shape[2], end, True, window), sinks=sinks, scale=scale, softcap=softcap
            )
            outputs.append(y[0].transpose(0, 1))
    return torch.cat(outputs)


def _batched(x: Any, lead: tuple[int, ...]) -> Any:
    """`[*B, H, L, D]` as `[B, H, L, D]`."""
    return x.expand(*lead, *x.shape[-3:]).reshape(math.prod(lead), *x.shape[-3:])


ANSWERS = {"sdpa": sdpa, "gqa": gqa, "paged_attention": paged_attention}
