"""Attention, and what goes wrong in it: masks, scales, heads, rows that see nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, memory, wide

BLOCK = 32


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
    mistake: str | None = None,
) -> Any:
    seen = visible(q.shape[-2], k.shape[-2], causal, window, mistake=mistake)
    sinks = None if sinks is None else sinks[..., None, None]
    return attend(q, k, v, seen, mask, sinks, scale, softcap, mistake)


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
    mistake: str | None = None,
) -> Any:
    keys, groups = k.shape[-2], q.shape[-3] // k.shape[-3]
    if mistake == "kv heads tiled":
        k, v = (np.concatenate([a] * groups, axis=-3) for a in (k, v))
    else:
        k, v = (np.repeat(a, groups, axis=-3) for a in (k, v))
    end = keys if kv_lengths is None else kv_lengths.astype(np.int64)[..., None, None, None]
    if mistake == "longest length for all" and kv_lengths is not None and kv_lengths.size:
        end = end.max()
    seen = visible(q.shape[-2], keys, causal, window, end, mistake)
    if mistake == "causal of the padded cache" and causal:
        seen = visible(q.shape[-2], keys, causal, window) & (np.arange(keys) < end)
    if key_mask is not None:
        if mistake == "strides of the key mask ignored":
            key_mask = memory(key_mask)
        if mistake == "key mask inverted":
            key_mask = ~key_mask
        if mistake == "key mask of the first sequence":
            key_mask = key_mask[:1]
        seen = seen & key_mask[..., None, None, :]
    return attend(q, k, v, seen, mask, None if sinks is None else sinks[:, None, None], scale, softcap, mistake)


def visible(
    length: int, keys: int, causal: bool, window: int | None, end: Any = None, mistake: str | None = None
) -> np.ndarray:
    """Which keys `[..., L, S]` the positions allow; the last query stands on the last key."""
    end = keys if end is None else end
    first = 0 if mistake == "causal aligned to the start" else end - length
    distance = np.arange(length)[:, None] + first - np.arange(keys)
    seen = np.broadcast_to(np.arange(keys) < end, distance.shape)
    if causal:
        seen = seen & (distance >= (-1 if mistake == "mask off by one" else 0))
    if window is not None:
        reach = window + 1 if mistake == "window off by one" else window
        seen = seen & (distance < reach)
        if not causal and mistake != "window to one side":
            seen = seen & (distance > -reach)
    return seen


def attend(
    q: Any,
    k: Any,
    v: Any,
    seen: Any,
    mask: Any,
    sinks: Any,
    scale: float | None,
    softcap: float | None,
    mistake: str | None = None,
) -> Any:
    """softmax(q k^T) v with all that may change the scores, in the order of the op semantics."""
    dtype = q.dtype
    if mistake == "mask read in the dtype of q" and mask is not None and mask.dtype not in (dtype, bool):
        mask = np.ascontiguousarray(mask).view(dtype)[..., : mask.shape[-1]]
    if mistake == "wide tiles for wide heads" and q.shape[-1] % 64 == 0 and k.shape[-2] % 64 == 0:
        seen = seen & (np.arange(k.shape[-2]) < k.shape[-2] - BLOCK)
    q, k, v = wide(q), wide(k), wide(v)
    if mask is not None:
        seen = seen & ((mask if mistake != "bool mask inverted" else ~mask) if mask.dtype == bool else mask > -np.inf)
    if mistake != "reads hidden keys":  # 0 * NaN is NaN
        used = np.any(seen, axis=-2)[..., None]
        k, v = (np.where(used | (mistake == "hides by -1e9") & np.isfinite(a), a, 0) for a in (k, v))
    scores = q @ np.swapaxes(k, -1, -2)
    if mistake != "missing scale":
        scores = scores * (
            q.shape[-1] ** -0.5 if scale is None or (mistake == "scale 0 taken for none" and not scale) else scale
        )
    late = mistake == "softcap after the mask"
    if softcap is not None and not late:
        scores = softcap * np.tanh(scores / softcap)
    if mask is not None and mask.dtype != bool:
        mask = wide(mask.astype(np.float16) if mistake == "mask added in float16" else mask)
        if mistake == "scale after the mask":
            mask = mask * (q.shape[-1] ** -0.5)
        scores = scores + mask
    scores = np.where(seen, scores, scores - 1e9 if mistake == "hides by -1e9" else -np.inf)
    if softcap is not None and late:
        scores = softcap * np.tanh(scores / softcap)
    if sinks is not None:
        sinks = wide(sinks)
    if mistake == "blocks not rescaled":
        return _by_blocks(scores, v, sinks).astype(dtype)
    top = np.max(scores, axis=None if mistake == "maximum of all rows" else -1, keepdims=True, initial=-np.inf)
    if sinks is not None:
        top = np.maximum(top, sinks)
    guard = mistake != "NaN in fully masked rows"
    top = np.where(top > -np.inf, top, 0) if guard else top
    weights = np.exp(scores - top)
    if mistake == "hides by -1e9":
        weights = weights * np.any(seen, axis=-1, keepdims=True)
    if mistake == "mean in fully masked rows":
        weights = np.where(np.any(seen, axis=-1, keepdims=True), weights, 1)
    if mistake == "tail of a block dropped" and weights.shape[-1] > BLOCK:
        weights[..., weights.shape[-1] // BLOCK * BLOCK :] = 0
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None and mistake != "sinks left out of the sum":
        total = total + np.exp(sinks - top)
    y = (weights / np.where(total > 0, total, 1) if guard else weights / total) @ v
    if mistake == "last row dropped" and y.shape[-2] > 2:
        y[..., -1, :] = 0
    return y.astype(dtype)


def _by_blocks(scores: Any, v: Any, sinks: Any) -> Any:
    """Keys in blocks with a running maximum, as flash attention has it, but what was summed before is left at the old
    maximum."""
    v = np.broadcast_to(v, (*scores.shape[:-2], *v.shape[-2:]))
    y, total = (
        np.zeros((*scores.shape[:-1], v.shape[-1]), scores.dtype),
        np.zeros((*scores.shape[:-1], 1), scores.dtype),
    )
    top = np.full_like(total, -np.inf) if sinks is None else np.broadcast_to(sinks, total.shape)
    for start in range(0, scores.shape[-1], BLOCK):
        block = scores[..., start : start + BLOCK]
        top = np.maximum(top, block.max(axis=-1, keepdims=True))
        weights = np.exp(block - np.where(top > -np.inf, top, 0))
        y, total = y + weights @ v[..., start : start + BLOCK, :], total + weights.sum(axis=-1, keepdims=True)
    total = total if sinks is None else total + np.exp(sinks - np.where(top > -np.inf, top, 0))
    return y / np.where(total > 0, total, 1)


MUTANTS = (
    Mutant("missing scale", "sdpa", "Scores are not divided by sqrt(D): weights become too sharp.", sdpa),
    Mutant("scale 0 taken for none", "sdpa", "`scale or default`: 0.0 is false, so the default is taken.", sdpa),
    Mutant("mask off by one", "sdpa", "`<=` for `<`: each query sees one key of the future.", sdpa),
    Mutant(
        "causal aligned to the start",
        "sdpa",
        "Query i sees keys 0..i: in decoding the new token sees the first key alone.",
        sdpa,
    ),
    Mutant(
        "window off by one",
        "sdpa",
        "The window has one key more: whether a query's own key counts was read the other way.",
        sdpa,
    ),
    Mutant("window to one side", "sdpa", "Without causal a window reaches to both sides; only the past was cut.", sdpa),
    Mutant("bool mask inverted", "sdpa", "True taken as 'hidden', as in torch's nn.MultiheadAttention.", sdpa),
    Mutant(
        "softcap after the mask", "sdpa", "tanh turns the -inf of hidden keys into -softcap: they are seen again.", sdpa
    ),
    Mutant("scale after the mask", "sdpa", "The scale multiplies the additive mask too: biases are too weak.", sdpa),
    Mutant(
        "mask added in float16", "sdpa", "The mask is rounded to 11 bits before it is added to float32 scores.", sdpa
    ),
    Mutant(
        "sinks left out of the sum", "sdpa", "The sink is in the maximum only: the other weights sum to 1 again.", sdpa
    ),
    Mutant(
        "NaN in fully masked rows",
        "sdpa",
        "-inf - -inf is NaN, and 0 / 0 too: a padded row spoils all layers after it.",
        sdpa,
    ),
    Mutant(
        "mean in fully masked rows",
        "sdpa",
        "Where all scores are equally low, softmax gives the mean of all values instead of zeros.",
        sdpa,
    ),
    Mutant(
        "reads hidden keys",
        "sdpa",
        "Hidden values get weight 0, but 0 * NaN is NaN: unused cache memory comes through.",
        sdpa,
    ),
    Mutant(
        "hides by -1e9",
        "sdpa",
        "A large negative number instead of an exclusion: a large hidden key outweighs it.",
        sdpa,
        caught_by="unread",
    ),
    Mutant(
        "maximum of all rows",
        "sdpa",
        "One maximum for the whole batch: a row far below its neighbours underflows to zeros.",
        sdpa,
        caught_by="properties",
    ),
    Mutant("last row dropped", "sdpa", "Queries are taken in pairs, and the loop forgets an odd one.", sdpa),
    Mutant(
        "tail of a block dropped",
        "sdpa",
        "Keys come in blocks of 32, and those past the last whole block are left out.",
        sdpa,
        "full",
    ),
    Mutant(
        "blocks not rescaled",
        "sdpa",
        "Flash attention whose sums stay at an old maximum when a later block has a larger score.",
        sdpa,
        "full",
    ),
    Mutant(
        "mask read in the dtype of q",
        "sdpa",
        "A float32 mask beside float16 queries is read as if it were float16.",
        sdpa,
        "full",
    ),
    Mutant(
        "wide tiles for wide heads",
        "sdpa",
        "The path for head_dim 64 and keys in whole 64s forgets the second half of the last tile.",
        sdpa,
        "full",
    ),
    Mutant("kv heads tiled", "gqa", "0 1 0 1 for 0 0 1 1: query heads read the keys of another group.", gqa),
    Mutant("key mask inverted", "gqa", "True taken as 'padding'.", gqa),
    Mutant("key mask of the first sequence", "gqa", "The first sequence's padding is used for the whole batch.", gqa),
    Mutant(
        "strides of the key mask ignored",
        "gqa",
        "A mask made by broadcasting is read as if it lay in memory as it looks.",
        gqa,
        caught_by="layouts",
    ),
    Mutant(
        "longest length for all",
        "gqa",
        "Sequences of a batch read up to the longest: the shorter ones see slots that are not theirs.",
        gqa,
    ),
    Mutant(
        "causal of the padded cache", "gqa", "The last query stands on the end of the cache, not of its sequence.", gqa
    ),
)
