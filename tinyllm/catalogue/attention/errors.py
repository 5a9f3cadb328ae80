"""How rounding errors go through attention: what the bounds of its ops are relative to. numpy only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.formula import attend, masks_of

TINY = 1e-30
"""Where all is so small that libraries flush it to 0, errors are relative to this."""


def attention_scale(formula: Callable[..., Any], inputs: Any, attributes: Any, outputs: Any) -> Any:
    """`OpSpec.scale` of sdpa and gqa. formula: `attend` or `attend_groups`."""
    q, k, v = (finite(inputs[name]) for name in ("q", "k", "v"))
    additive, seen = masks_of(inputs, attributes)
    sinks, settings = inputs.get("sinks"), {name: attributes.get(name) for name in ("scale", "softcap")}
    shaped = sinks[..., None, None] if sinks is not None and formula is attend else sinks
    weights = formula(np, q, k, v, additive=additive, seen=seen, sinks=shaped, **settings)[1]
    return attention_errors(q, k, v, weights, **settings, shifts=shift(additive, seen, sinks))[1]


def attention_sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    """`OpSpec.sums` of sdpa and gqa: over the keys, and over the numbers of a score."""
    return max(inputs["k"].shape[-2:]) ** 0.5 * scale


def finite(array: Any) -> Any:
    """Numbers with 0 for NaN and inf, which only what no query attends to may hold. numpy only."""
    return np.nan_to_num(array, nan=0, posinf=0, neginf=0)


def attention_errors(
    q: Any,
    k: Any,
    v: Any,
    weights: Any,
    scale: float | None,
    softcap: float | None,
    shifts: Any,
    d_q: Any = 0.0,
    d_k: Any = 0.0,
    d_v: Any = 0.0,
) -> tuple[Any, Any]:
    """How rounding errors go through attention, to first order and in units of eps: those of weights `[*B, H, L, S]`
    and the output `[*B, H, L, Dv]`, given those of queries, keys and values. numpy only.

        d s   = scale (d q * |k| + |q| * d k + |q| . |k| + max_j |q| . |k_j|) + shift
        d z   = |w * d s|
        d w_j = w_j (1 + d s_j + d z)
        d y   = (w + w d s) * |v| + w * d v + (1 + d z) w . |v|

    where `a * b` is the root of the sum of the squares of `a_i b_i`: errors of different numbers are independent, as in
    the model of `tinyllm/conformance/bounds.py`. The rounding errors of one product are not taken to be: `a . b` is the
    sum of `a_i b_i`.

    A score is a sum of products, whose rounding errors are relative to the sum of their sizes; a softcap multiplies it
    by its slope, and has one of its own. The largest logit is taken off, and a float mask is added, each with an
    error relative to its size (`shift`). An error e of a score is a relative error e of its weight, since `exp(s + e)`
    is about `(1 + e) exp(s)`, and each weight is divided by the sum of all.
    """
    k, v, d_k, d_v = (_of_query_heads(a, q) if np.ndim(a) else a for a in (k, v, d_k, d_v))
    keys, d_keys = np.swapaxes(k, -1, -2), d_k if np.ndim(d_k) == 0 else np.swapaxes(d_k, -1, -2)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    sizes = abs(factor) * (np.abs(q) @ np.abs(keys))
    d_scores = sizes
    for a, b in ((d_q, keys), (q, d_keys)):
        if np.ndim(a) and np.ndim(b):
            d_scores = d_scores + abs(factor) * independent(a, b)
    if softcap is not None:
        capped = np.tanh(factor * (q @ keys) / softcap)
        sizes = softcap * np.abs(capped)
        d_scores = (1 - capped**2) * d_scores + sizes
    d_scores = d_scores + np.max(sizes, axis=-1, keepdims=True, initial=0) + shifts
    of_sum = np.sqrt(np.sum((weights * d_scores) ** 2, axis=-1, keepdims=True))
    d_weights = weights * (1 + d_scores)
    d_y = independent(d_weights, v) + (1 + of_sum) * (weights @ np.abs(v))
    d_y = d_y + (independent(weights, d_v) if np.ndim(d_v) else 0.0)
    return d_weights + weights * of_sum, d_y + TINY


def independent(errors: Any, sizes: Any) -> Any:
    """The error of a matrix product whose factors are off by errors that are independent of one another: the root of
    the sum of their squares. numpy only."""
    return np.sqrt(errors**2 @ sizes**2)


def _of_query_heads(array: Any, q: Any) -> Any:
    """Keys or values with a head for each head of q, where there are fewer."""
    heads, kv_heads = (a.shape[-3] if a.ndim > 2 else 1 for a in (q, array))
    return np.repeat(array, heads // kv_heads, axis=-3) if kv_heads > 1 and (heads > kv_heads or not heads) else array


def shift(additive: Any, seen: Any, sinks: Any) -> Any:
    """What the scores of each row are shifted by, `[..., L, 1]`: the size of the largest number that a float mask adds
    to a key that the row attends to, and of a sink, which may be the largest logit. sinks: `[H]`. numpy only."""
    size = 0.0 if sinks is None else np.maximum(sinks, 0)[..., None, None]
    if additive is None:
        return size
    top = np.max(np.where(True if seen is None else seen, additive, -np.inf), axis=-1, keepdims=True, initial=-np.inf)
    return size + np.abs(np.where(np.isfinite(top), top, 0.0))
