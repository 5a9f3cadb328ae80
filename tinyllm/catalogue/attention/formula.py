"""What all attention ops share: which keys a query may see, the formula, the checks and the cost."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import invalid
from tinyllm.spec.attribute_checks import boolean, integer, number, optional
from tinyllm.spec.op_spec import Attribute
from tinyllm.spec.types import ArrayType, Call

SETTINGS = (
    Attribute("scale", None, optional(number()), "multiplies q.k; None: 1/sqrt(D)"),
    Attribute(
        "causal",
        False,
        boolean,
        "query i sees keys up to S - L + i: aligned to the end, as decoding needs (torch: to the start)",
    ),
    Attribute("window", None, optional(integer(1)), "keys seen, the query's own included; to both sides unless causal"),
    Attribute("softcap", None, optional(number(above=0)), "scores become c * tanh(score / c)"),
)

REFUSED = {
    "is_causal": "use causal=True (aligned to the end)",
    "attn_mask": "use mask= (True = attend)",
    "key_padding_mask": "use key_mask= (True = attend, so ~key_padding_mask)",
    "enable_gqa": "use ops.gqa",
    "dropout_p": "there is no dropout at inference",
    "batch_first": "the layout is always batch first",
}

NOTES = (
    "Bool masks: True = attend (torch's nn.MultiheadAttention means the opposite: pass `~mask`).",
    "A mask is `[L, S]` or has the full rank of the scores; it never enlarges the batch. Float masks are added "
    "in float32.",
    "`mask`, `causal` and `window` intersect; order: scale, softcap, additive mask, exclusions, sinks.",
    "A row with nothing to attend to gives zeros. Keys that no query sees may hold NaN or inf; those hidden from "
    "some must be finite.",
    "What a query or a visible key of NaN gives is not defined: NaN by the formula, zeros by torch's operator.",
)


def check_mask(op: str, mask: ArrayType, scores: tuple[Any, ...]) -> None:
    """A mask is `[L, S]` or of the full rank of the scores, size-1 axes allowed, never larger than the scores."""
    shape = mask.shape
    if len(shape) not in (2, len(scores)):
        raise invalid(op, "mask", f"2 axes [L, S] or the {len(scores)} of the scores {list(scores)}", list(shape))
    tail = scores[len(scores) - len(shape) :]
    if any(m not in (1, s) for m, s in zip(shape, tail, strict=True)):
        raise invalid(op, "mask", f"a shape that broadcasts to the scores {list(scores)}", list(shape))


def check_scale(op: str, call: Call, head_dim: Any) -> None:
    """The default scale needs a head_dim above 0."""
    if head_dim == 0 and call.attributes["scale"] is None:
        raise invalid(op, "scale", "an explicit scale where D is 0", None)


def check_key_mask(op: str, key_mask: ArrayType, lead: tuple[Any, ...], keys: Any) -> None:
    """A key mask is `[*B, S]`, size-1 axes allowed, never larger than the batch."""
    wanted = (*lead, keys)
    if len(key_mask.shape) != len(wanted) or any(m not in (1, s) for m, s in zip(key_mask.shape, wanted, strict=True)):
        raise invalid(
            op, "key_mask", f"a shape that broadcasts to {list(wanted)}, with as many axes", list(key_mask.shape)
        )


def check_heads(op: str, heads: Any, kv_heads: Any) -> None:
    """Every kv head serves the same number of query heads."""
    if isinstance(heads, int) and isinstance(kv_heads, int) and (kv_heads == 0 or heads % kv_heads):
        raise invalid(op, "q", f"a number of heads that the {kv_heads} kv heads divide", f"{heads} heads")


def visible(xp: Any, length: int, keys: int, causal: bool, window: int | None, end: Any = None) -> Any:
    """Bool `[L, S]`: which keys the positions allow, the last query standing on the last key. None: all.

    end: `[*B, 1, 1]`, the number of valid keys of each sequence: the last query stands on key `end - 1`, none sees a
    later one.
    """
    if not causal and window is None and end is None:
        return None
    key = xp.expand_dims(xp.arange(keys), axis=0)
    distance = xp.expand_dims(xp.arange(length), axis=1) + ((keys if end is None else end) - length) - key
    seen = None if end is None else key < end
    if causal:
        seen = distance >= 0 if seen is None else xp.logical_and(seen, distance >= 0)
    if window is not None:
        near = distance < window
        if not causal:
            near = xp.logical_and(near, distance > -window)
        seen = near if seen is None else xp.logical_and(seen, near)
    return seen


def attend(
    xp: Any,
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None,
    softcap: float | None,
    additive: Any = None,
    seen: Any = None,
    sinks: Any = None,
) -> tuple[Any, Any]:
    """The formula, once: output `[*B, L, Dv]` and weights `[*B, L, S]`.

    additive: float mask, added after scale and softcap. seen: bool, broadcastable to the scores, False = excluded.
    sinks: raw logits, broadcastable to `[*B, L, 1]`, in the sum and not in the output.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if seen is not None:  # keys hidden from every query may hold anything
        used = (
            xp.max(xp.astype(seen, xp.int32), axis=-2) > 0
            if seen.shape[-2]
            else xp.zeros(seen.shape[:-2] + seen.shape[-1:]) > 0
        )
        used = xp.expand_dims(used, axis=-1)
        k, v = xp.where(used, k, xp.zeros((), dtype=k.dtype)), xp.where(used, v, xp.zeros((), dtype=v.dtype))
    axes = (*range(k.ndim - 2), k.ndim - 1, k.ndim - 2)
    scores = xp.matmul(q, xp.permute_dims(k, axes)) * scale
    if softcap is not None:
        scores = softcap * xp.tanh(scores / softcap)
    if additive is not None:
        scores = scores + additive
    allowed = xp.logical_not(scores <= float("-inf"))  # NaN is not hidden: it must come out
    if seen is not None:
        allowed = xp.logical_and(allowed, seen)
    scores = xp.where(allowed, scores, xp.asarray(float("-inf"), dtype=scores.dtype))
    if k.shape[-2] == 0:
        return xp.matmul(scores, v), scores  # a sum over nothing: zeros
    top = xp.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        top = xp.maximum(top, xp.broadcast_to(sinks, top.shape))
    top = xp.where(top > float("-inf"), top, xp.zeros((), dtype=top.dtype))
    weights = xp.where(allowed, xp.exp(scores - top), xp.zeros((), dtype=scores.dtype))
    total = xp.sum(weights, axis=-1, keepdims=True)
    if sinks is not None:
        total = total + xp.exp(sinks - top)
    weights = weights / xp.where(total > 0, total, xp.ones((), dtype=total.dtype))
    return xp.matmul(weights, v), weights


def attend_groups(
    xp: Any,
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float | None,
    softcap: float | None,
    additive: Any = None,
    seen: Any = None,
    sinks: Any = None,
) -> tuple[Any, Any]:
    """`attend` where kv head j of `[*B, Hkv, S, D]` serves query heads `j*G .. (j+1)*G-1` of `[*B, Hq, L, D]`; sinks
    `[Hq]`.

    The groups get an axis of their own along which K and V broadcast, so nothing is copied.
    """
    heads, kv_heads = q.shape[-3], k.shape[-3]
    groups = heads // kv_heads

    def by_group(array: Any) -> Any:
        if array is None or array.ndim < 3:
            return array
        if array.shape[-3] == 1:
            return xp.expand_dims(array, axis=-3)
        return xp.reshape(array, (*array.shape[:-3], kv_heads, groups, *array.shape[-2:]))

    y, weights = attend(
        xp,
        xp.reshape(q, (*q.shape[:-3], kv_heads, groups, *q.shape[-2:])),
        xp.expand_dims(k, axis=-3),
        xp.expand_dims(v, axis=-3),
        scale=scale,
        softcap=softcap,
        additive=by_group(additive),
        seen=by_group(seen),
        sinks=None if sinks is None else xp.reshape(sinks, (kv_heads, groups, 1, 1)),
    )
    return tuple(xp.reshape(a, (*a.shape[:-4], heads, *a.shape[-2:])) for a in (y, weights))


def split_mask(xp: Any, mask: Any, seen: Any) -> tuple[Any, Any]:
    """A mask as (additive part, exclusions intersected with `seen`)."""
    if mask is None:
        return None, seen
    if str(mask.dtype).rpartition(".")[2].startswith("bool"):
        return None, mask if seen is None else xp.logical_and(mask, seen)
    hidden = mask > float("-inf")
    return mask, hidden if seen is None else xp.logical_and(hidden, seen)


def unread_keys(seen: Any, lead: tuple[int, ...], length: int, **arrays: Any) -> dict[str, Any]:
    """Per array `[*B, S, D]` of keys or values, True where no query sees the key in any batch entry or head that the
    array is broadcast to. numpy only.

    seen: what `visible` and the masks allow, broadcastable to `[*lead, L, S]`; None: all.
    """
    return {name: ~_along(seen, (*lead, length), a) for name, a in arrays.items()}


def _along(seen: Any, queries: tuple[int, ...], array: Any) -> Any:
    """Whether any query sees a key, in the shape of the array; `queries` are the leading axes of the scores, L
    included."""
    *lead, keys, _ = array.shape
    used = np.any(np.broadcast_to(True if seen is None else seen, (*queries, keys)), axis=-2)
    used = np.any(used, axis=tuple(range(used.ndim - 1 - len(lead))))
    shared = tuple(axis for axis, size in enumerate(lead) if size == 1)
    return np.broadcast_to(np.any(used, axis=shared, keepdims=True)[..., None], array.shape)


def unread_of_groups(seen: Any, lead: tuple[int, ...], heads: int, length: int, **arrays: Any) -> dict[str, Any]:
    """The same where a kv head of `[*B, Hkv, S, D]` serves a group of the query heads; seen is broadcastable to
    `[*lead, Hq, L, S]`."""

    def of_one(array: Any) -> Any:
        kv_heads, keys = array.shape[-3:-1]
        scores = np.broadcast_to(True if seen is None else seen, (*lead, heads, length, keys))
        of_group = np.any(scores.reshape(*lead, kv_heads, heads // kv_heads, length, keys), axis=-3)
        return ~_along(of_group, (*lead, kv_heads, length), array)

    return {name: of_one(array) for name, array in arrays.items()}


def error_scale(q: Any, k: Any, v: Any, scale: float | None, additive: Any = None, seen: Any = None) -> Any:
    """Weights sum to 1 at most, so errors are relative to the largest value, grown by how large the scores are. numpy
    only.

    A float mask that moves all scores of a row leaves them fewer digits: they grow by the largest of it that the row
    sees.

    `[*B, L, 1 or Dv]`; kv heads may be fewer than query heads. NaN and inf are left out: they stand where nobody looks.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else abs(scale)
    k, v = (np.nan_to_num(a, nan=0, posinf=0, neginf=0) for a in (k, v))
    heads = q.shape[-3] if q.ndim > 2 else 1
    if k.ndim > 2 and k.shape[-3] > 1 and (heads > k.shape[-3] or heads == 0):
        k, v = (np.repeat(a, heads // a.shape[-3], axis=-3) if a.ndim > 2 and a.shape[-3] > 1 else a for a in (k, v))
    size = np.abs(q) @ np.abs(np.swapaxes(k, -1, -2)) * factor
    largest = np.max(size, axis=-1, keepdims=True, initial=1.0)
    return (1 + largest + shift(additive, seen)) * np.max(np.abs(v), axis=-2, keepdims=True, initial=1e-6)


def shift(additive: Any, seen: Any) -> Any:
    """`[..., L, 1]`: how far a float mask moves the largest score of each row. numpy only."""
    if additive is None:
        return 0.0
    top = np.max(np.where(True if seen is None else seen, additive, -np.inf), axis=-1, keepdims=True, initial=-np.inf)
    return np.abs(np.where(np.isfinite(top), top, 0.0))


def attention_flops(call: Call, scores: tuple[Any, ...], head_dim: int, value_dim: int) -> int:
    """Two matrix products over the scores; about half of them where causal."""
    full: int = 2 * prod(scores) * (head_dim + value_dim)
    return full // 2 if call.attributes.get("causal") and len(scores) > 1 and scores[-2] > 1 else full
