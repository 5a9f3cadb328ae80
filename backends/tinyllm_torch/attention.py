"""sdpa and gqa: `scratch` from matrix products, `fused` by PyTorch's operator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tinyllm_torch.widen import for_product, widen

Tensor = torch.Tensor


def sdpa_scratch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    sinks: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The attention `[*B, L, Dv]` of q over k and v, from matrix products."""
    return gqa_scratch(q, k, v, mask=mask, sinks=sinks, scale=scale, causal=causal, window=window, softcap=softcap)


def gqa_scratch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    kv_lengths: np.ndarray | None = None,
    sinks: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The attention `[*B, Hq, L, Dv]` of groups of query heads over the kv heads of k and v, from matrix products."""
    additive, seen = masks(q, k, mask, key_mask, kv_lengths, causal=causal, window=window)
    y = attend(widen(q), widen(k), widen(v), scale=scale, softcap=softcap, additive=additive, seen=seen, sinks=sinks)
    return y.to(q.dtype)


def sdpa_fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """Attention `[*B, L, Dv]` by PyTorch's operator."""
    return gqa_fused(q, k, v, mask=mask, scale=scale, causal=causal, window=window)


def gqa_fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    kv_lengths: np.ndarray | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """Grouped attention `[*B, Hq, L, Dv]` by PyTorch's operator, which groups query heads by itself. Its `is_causal` is
    used where it means the same as ours; otherwise all conditions are one mask, and rows that attend to nothing are set
    to 0."""
    dtype, length, keys = q.dtype, q.shape[-2], k.shape[-2]
    q, k, v = for_product(q), for_product(k), for_product(v)
    unmasked = mask is None and key_mask is None and kv_lengths is None and window is None
    square = unmasked and causal and length in (1, keys) and causal_by_operator(scale)
    additive, seen = (None, None) if square else masks(q, k, mask, key_mask, kv_lengths, causal=causal, window=window)
    if seen is None:
        return dot_product_attention(q, k, v, scale=scale, is_causal=square and length > 1).to(dtype)
    bias = seen if additive is None else torch.where(seen, additive.to(q.dtype), -math.inf)
    y = dot_product_attention(q, _clean(k, seen, q.shape), _clean(v, seen, q.shape), scale=scale, mask=bias)
    return torch.where(seen.any(-1, keepdim=True), y, 0).to(dtype)


def masks(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    kv_lengths: np.ndarray | None = None,
    *,
    causal: bool,
    window: int | None,
) -> tuple[Tensor | None, Tensor | None]:
    """What masks add to the scores (None: nothing), and a bool tensor of the keys that queries attend to (None: all),
    both broadcastable to the scores."""
    end = None
    if kv_lengths is not None:  # it may be unsigned or have 8 bits, and differences of it are taken
        end = torch.as_tensor(kv_lengths.astype(np.int64), device=q.device)[..., None, None, None]
    parts = visible(q.shape[-2], k.shape[-2], causal, window, end, q.device)
    additive = None
    if mask is not None:
        additive = None if mask.dtype is torch.bool else mask
        parts.append(mask if additive is None else mask > -math.inf)
    if key_mask is not None:
        parts.append(key_mask[..., None, None, :])
    if not parts:
        return additive, None
    seen = parts[0]
    for part in parts[1:]:
        seen = seen & part
    return additive, seen


def visible(
    length: int, keys: int, causal: bool, window: int | None, end: Tensor | None, device: torch.device
) -> list[Tensor]:
    """Bool tensors, broadcastable to `[*B, L, S]`, which together say which keys positions allow; none where all are.
    The last query stands on the last key, or on key `end - 1`."""
    if not causal and window is None and end is None:
        return []
    key = torch.arange(keys, device=device)
    query = torch.arange(length, device=device).unsqueeze(-1) + ((keys if end is None else end) - length)
    parts = [] if end is None else [key < end]
    if causal:
        parts.append(key <= query)
    if window is not None:
        window = min(window, length + keys)  # beyond it nothing changes, and sums of 64 bits do not overflow
        parts.append(key > query - window)
        if not causal:
            parts.append(key < query + window)
    return parts


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    additive: Tensor | None = None,
    seen: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The output `[*B, L, Dv]` of weights `w_j = exp(s_j - m) / z`, m the largest score or sink of a row and
    `z = sum_j exp(s_j - m) + exp(sink - m)`. A row with nothing to attend to gives zeros.

    k and v may have fewer heads than q. sinks: `[Hq]`.
    """
    if not q.ndim == k.ndim == v.ndim:  # batch axes that one side lacks, ahead of its heads
        axes = max(q.ndim, k.ndim, v.ndim)
        q, k, v = (x[(None,) * (axes - x.ndim)] for x in (q, k, v))
    scores = _product(q * (q.shape[-1] ** -0.5 if scale is None else scale), k.mT)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if additive is not None:
        scores = scores + additive.to(scores.dtype)
    if seen is not None:
        scores = torch.where(seen, scores, -math.inf)
        v = _clean(v, seen, q.shape)
    if scores.shape[-1] == 0:
        return _product(scores, v)  # sums over no keys: zeros
    top = scores.amax(-1, keepdim=True)
    if sinks is not None:
        sinks = sinks.to(scores.dtype)[..., None, None]
        top = torch.maximum(top, sinks)
    top = top.masked_fill(top == -math.inf, 0)  # no key: -inf - -inf would be NaN
    weights = (scores - top).exp_()
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + (sinks - top).exp_()
    weights.div_(total.masked_fill(total == 0, 1))
    return _product(weights, v)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b`. Where a has more heads than b, those of a group are rows of one product, so that b is neither copied nor
    read twice."""
    if a.ndim < 3 or a.ndim != b.ndim or b.shape[-3] == 0 or 0 < a.shape[-3] <= b.shape[-3]:
        return a @ b
    heads, groups, rows = b.shape[-3], a.shape[-3] // b.shape[-3], a.shape[-2]
    y = a.reshape(*a.shape[:-3], heads, groups * rows, a.shape[-1]) @ b
    return y.view(*y.shape[:-3], heads * groups, rows, y.shape[-1])


def _clean(x: Tensor, seen: Tensor, q_shape: Any) -> Tensor:
    """Keys or values x with zeros where no query attends to them: they may be NaN, which a weight of 0 does not keep
    out."""
    if x.numel() == 0 or seen.numel() == 0:
        return x
    used = seen.any(-2)
    if used.ndim > 1 and x.ndim > 2 and used.shape[-2] > x.shape[-3]:
        used = used.view(*used.shape[:-2], x.shape[-3], -1, used.shape[-1]).any(-2)
    return torch.where(used.unsqueeze(-1), x, 0)


def causal_by_operator(scale: float | None) -> bool:
    """Whether the operator's `is_causal` is right for a scale: the -inf of its mask is scaled too, and becomes NaN or
    inf where the scale is not above 0."""
    return scale is None or scale > 0


def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """PyTorch's `scaled_dot_product_attention` over 4 axes, for which it is fast: `[*B, L, Dv]`. A row that attends to
    nothing gives NaN, and `is_causal` is aligned to the start, which is right for L = S alone."""
    grouped = q.ndim > 2 and q.shape[-3] != k.shape[-3]
    if mask is not None and mask.ndim > 4:
        mask = mask.expand(*q.shape[:-1], k.shape[-2]).flatten(0, -4)
    y = F.scaled_dot_product_attention(
        _four_axes(q),
        _four_axes(k),
        _four_axes(v),
        attn_mask=mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=grouped,
    )
    return y if q.ndim == 4 else y.reshape(*q.shape[:-1], v.shape[-1])


def _four_axes(x: Tensor) -> Tensor:
    return x[(None,) * (4 - x.ndim)] if x.ndim < 4 else x.flatten(0, -4)
