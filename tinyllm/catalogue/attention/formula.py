"""What the attention ops share: which keys a query attends to, the formula, the checks, the cost and the error bound.

For a query q and the keys k_j and values v_j that it may attend to (Vaswani et al. 2017, arXiv:1706.03762):

    s_j = scale q.k_j                   scale: 1 / sqrt(D) unless given
    s_j = c tanh(s_j / c)               where softcap c is given (Gemma 2, arXiv:2408.00118)
    s_j = s_j + mask_j                  where a float mask is given
    w_j = exp(s_j - m) / z              z = sum_j exp(s_j - m) + exp(sink - m), the second term where sinks are given
    y   = sum_j w_j v_j

m is the largest of the s_j and the sink. It cancels out, and keeps every exponent at or below 0, so that nothing
overflows. Scores, masks and sinks are logits: natural logarithms of weights that are not yet divided by their sum.
Sinks: Xiao et al. 2023, arXiv:2309.17453, one a head as in gpt-oss.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import invalid
from tinyllm.spec.attribute_checks import boolean, integer, number, optional
from tinyllm.spec.op_spec import Attribute
from tinyllm.spec.types import Call

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


def check_masks(call: Call, lead: tuple[Any, ...], *scores: Any) -> None:
    """Refuses a mask unless it is `[L, S]` or has as many axes as the scores `[*lead, *scores]`, and a key mask unless
    it is `[*lead, S]`. Each axis may be 1 or as long as theirs.

    Raises:
        InvalidInputError: names the op, the mask and both shapes.
    """
    full: tuple[Any, ...] = (*lead, *scores)
    if call.inputs["mask"] is not None:
        shape = call.shape("mask")
        if len(shape) not in (2, len(full)):
            raise invalid(call.op, "mask", f"2 axes [L, S] or the {len(full)} of the scores {list(full)}", list(shape))
        if not _stretches(shape, full[len(full) - len(shape) :]):
            raise invalid(call.op, "mask", f"a shape that broadcasts to the scores {list(full)}", list(shape))
    if call.inputs.get("key_mask") is not None:
        shape, full = call.shape("key_mask"), (*lead, full[-1])
        if len(shape) != len(full) or not _stretches(shape, full):
            expected = f"a shape that broadcasts to {list(full)}, with as many axes"
            raise invalid(call.op, "key_mask", expected, list(shape))


def _stretches(shape: tuple[Any, ...], full: tuple[Any, ...]) -> bool:
    return all(size in (1, wanted) for size, wanted in zip(shape, full, strict=True))


def check_scale(call: Call, head_dim: Any) -> None:
    """Raises `InvalidInputError` where the scale is left to be `1 / sqrt(D)` and D is 0."""
    if head_dim == 0 and call.attributes["scale"] is None:
        raise invalid(call.op, "scale", "an explicit scale where D is 0", None)


def check_heads(call: Call, heads: Any, kv_heads: Any) -> None:
    """Raises `InvalidInputError` where the kv heads do not divide the query heads."""
    if isinstance(heads, int) and isinstance(kv_heads, int) and (kv_heads == 0 or heads % kv_heads):
        raise invalid(call.op, "q", f"a number of heads that the {kv_heads} kv heads divide", f"{heads} heads")


def visible(xp: Any, length: int, keys: int, causal: bool, window: int | None, end: Any = None) -> Any:
    """Which keys the positions of queries and keys allow: bool `[L, S]`, or None where all are.

    Query i stands on key `S - L + i`, so that the last query stands on the last key.

    end: `[*B, 1, 1]`, the number of valid keys of each sequence, which takes the place of S; the result is then
    `[*B, L, S]`, and False at and past `end`.
    """
    if not causal and window is None and end is None:
        return None
    key = xp.expand_dims(xp.arange(keys), axis=0)
    distance = xp.expand_dims(xp.arange(length), axis=1) + ((keys if end is None else end) - length) - key
    seen = None if end is None else key < end
    if causal:
        seen = both(xp, seen, distance >= 0)
    if window is not None:
        seen = both(xp, seen, distance < window)
        seen = seen if causal else both(xp, seen, distance > -window)
    return seen


def both(xp: Any, seen: Any, mask: Any) -> Any:
    """The keys that both masks allow; None allows all."""
    return mask if seen is None else seen if mask is None else xp.logical_and(seen, mask)


def of_scores(xp: Any, key_mask: Any) -> Any:
    """A key mask `[*B, S]`, or None, as one that is broadcastable to the scores `[*B, H, L, S]`."""
    return None if key_mask is None else xp.expand_dims(xp.expand_dims(key_mask, axis=-2), axis=-2)


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
    """The output `[*B, L, Dv]` and the weights `[*B, L, S]` of the formula above.

    A query that attends to no key gives zeros, weights included. additive: a float mask, added after scale and softcap.
    seen: bool, broadcastable to the scores, False = excluded. sinks: logits, broadcastable to `[*B, L, 1]`.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if seen is not None:  # keys hidden from every query may hold NaN, which a weight of 0 would not keep out
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
        return xp.matmul(scores, v), scores  # a sum over no keys: zeros
    top = xp.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        top = xp.maximum(top, xp.broadcast_to(sinks, top.shape))
    top = xp.where(top > float("-inf"), top, xp.zeros((), dtype=top.dtype))  # no key: -inf - -inf would be NaN
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
    """`attend` for q `[*B, Hq, L, D]` and k, v `[*B, Hkv, S, D]`: output `[*B, Hq, L, Dv]`, weights `[*B, Hq, L, S]`.

    kv head j serves the G = Hq / Hkv query heads from j G on. Each group of query heads has an axis of its own, along
    which K and V broadcast, so that these are not copied. sinks: `[Hq]`.
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
    """What a mask adds to the scores (None for a bool mask or none), and the keys of `seen` that it leaves visible."""
    if mask is None:
        return None, seen
    if str(mask.dtype).rpartition(".")[2].startswith("bool"):
        return None, both(xp, mask, seen)
    return mask, both(xp, mask > float("-inf"), seen)


def all_masks(
    xp: Any,
    q: Any,
    k: Any,
    *,
    mask: Any = None,
    key_mask: Any = None,
    kv_lengths: Any = None,
    causal: bool = False,
    window: int | None = None,
) -> tuple[Any, Any]:
    """What all masks together add to the scores, and which keys they leave visible."""
    # kv_lengths may be unsigned or have 8 bits, and differences of them are taken
    end = None if kv_lengths is None else xp.asarray(np.asarray(kv_lengths).astype(np.int64)[..., None, None, None])
    additive, seen = split_mask(xp, mask, visible(xp, q.shape[-2], k.shape[-2], causal, window, end))
    return additive, both(xp, seen, of_scores(xp, key_mask))


def masks_of(inputs: Any, attributes: Any) -> tuple[Any, Any]:
    """`all_masks` of a call. numpy only."""
    given = {name: inputs.get(name) for name in ("mask", "key_mask", "kv_lengths")}
    settings = {name: attributes[name] for name in ("causal", "window") if name in attributes}
    return all_masks(np, inputs["q"], inputs["k"], **given, **settings)


def attention_unread(axes: int, inputs: Any, attributes: Any) -> Any:
    """`OpSpec.unread` of sdpa and gqa. axes: those of q that are no batch axes, two or with the heads three."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    lead = np.broadcast_shapes(*(a.shape[:-axes] for a in (q, k, v)))
    return unread_keys(masks_of(inputs, attributes)[1], (*lead, *q.shape[-axes:-1], k.shape[-2]), k=k, v=v)


def unread_keys(seen: Any, scores: tuple[int, ...], **arrays: Any) -> dict[str, Any]:
    """For each array `[*B, Hkv, S, D]` of keys or values a bool array of its shape, True where no query attends to the
    key, in any entry of the batch that the array is broadcast to, and in any query head that its head serves. numpy
    only.

    seen: what `visible` and the masks allow, broadcastable to the shape of the scores; None: all.
    """
    used = np.any(np.broadcast_to(True if seen is None else seen, scores), axis=-2)

    def unread(array: Any) -> Any:
        *lead, _, _ = array.shape
        of_array = np.any(used, axis=tuple(range(used.ndim - 1 - len(lead))))
        for axis, size in enumerate(lead):  # 1 of a broadcast axis stands for all, a kv head for its group
            served = of_array.shape[axis] // max(size, 1)
            of_array = of_array.reshape(*lead[:axis], size, served, *of_array.shape[axis + 1 :]).any(axis + 1)
        return np.broadcast_to(~of_array[..., None], array.shape)

    return {name: unread(array) for name, array in arrays.items()}


def attention_flops(call: Call, scores: tuple[Any, ...], head_dim: int, value_dim: int) -> int:
    """Operations of the matrix products `Q K^T` and `W V`; half of them where causal attention skips half the keys."""
    full: int = 2 * prod(scores) * (head_dim + value_dim)
    return full // 2 if call.attributes.get("causal") and len(scores) > 1 and scores[-2] > 1 else full
