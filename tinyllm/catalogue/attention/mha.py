"""mha: the whole attention layer, projections included, as `MultiHeadAttention` of the libraries computes it at
inference."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.attention.formula import (
    NOTES,
    REFUSED,
    SETTINGS,
    all_masks,
    attend_groups,
    both,
    of_scores,
    split_mask,
    unread_keys,
    visible,
)
from tinyllm.catalogue.attention.mha_cases import BAD_INPUTS, CASES
from tinyllm.catalogue.attention.mha_checks import check_layer, layer_flops
from tinyllm.catalogue.attention.mha_composed import after, swapped
from tinyllm.catalogue.products.linear import product
from tinyllm.catalogue.rope.rope_angles import cos_sin
from tinyllm.catalogue.rope.rope_rotate import rotate
from tinyllm.catalogue.rows.rms_norm import normed
from tinyllm.spec.attribute_checks import boolean, choice, instance, integer, number, optional
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.quantized import magnitude
from tinyllm.spec.rope import Rope


def _reference(
    xp: Any,
    query: Any,
    q_proj: Any,
    o_proj: Any,
    *,
    k_proj: Any = None,
    v_proj: Any = None,
    key: Any = None,
    value: Any = None,
    q_bias: Any = None,
    k_bias: Any = None,
    v_bias: Any = None,
    o_bias: Any = None,
    bias_k: Any = None,
    bias_v: Any = None,
    q_norm: Any = None,
    k_norm: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    positions: Any = None,
    mask: Any = None,
    key_mask: Any = None,
    sinks: Any = None,
    num_heads: int,
    num_kv_heads: int | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    rope: Rope | None = None,
    norm_eps: float = 1e-6,
    qk_norm_after_rope: bool = False,
    add_zero_attn: bool = False,
    need_weights: str | None = None,
    return_kv: bool = False,
) -> Any:
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    length = query.shape[-2]
    if positions is None:
        first = 0 if past_k is None else past_k.shape[-2]
        positions = xp.arange(first, first + length)

    def ready(x: Any, norm: Any) -> Any:
        if norm is not None and not qk_norm_after_rope:
            x = normed(xp, x, norm, eps=norm_eps)
        x = _turn(xp, x, positions, rope)
        return normed(xp, x, norm, eps=norm_eps) if norm is not None and qk_norm_after_rope else x

    q = ready(_split(xp, product(xp, query, q_proj, q_bias), num_heads), q_norm)
    k, v = past_k, past_v
    if k_proj is not None:
        key = query if key is None else key
        value = key if value is None else value
        k = after(xp, k, ready(_split(xp, product(xp, key, k_proj, k_bias), kv_heads), k_norm))
        v = after(xp, v, _split(xp, product(xp, value, v_proj, v_bias), kv_heads))
    additive, seen = all_masks(xp, q, k, mask=mask, key_mask=key_mask, causal=causal, window=window)
    all_k, all_v = k, v
    for row_k, row_v in _extra(xp, k, v, bias_k, bias_v, add_zero_attn):
        additive, seen = _always(xp, additive, all_k.shape[-2], 0), _always(xp, seen, all_k.shape[-2], 1)
        all_k, all_v = xp.concat([all_k, row_k], axis=-2), xp.concat([all_v, row_v], axis=-2)
    y, weights = attend_groups(
        xp, q, all_k, all_v, scale=scale, softcap=softcap, additive=additive, seen=seen, sinks=sinks
    )
    outputs = [product(xp, _merge(xp, y), o_proj, o_bias)]
    if need_weights:
        outputs.append(weights if need_weights == "heads" else xp.mean(weights, axis=-3))
    if return_kv:
        outputs += [k, v]
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def _split(xp: Any, x: Any, heads: int) -> Any:
    return swapped(xp, xp.reshape(x, (*x.shape[:-1], heads, x.shape[-1] // heads)))


def _merge(xp: Any, x: Any) -> Any:
    x = swapped(xp, x)
    return xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def _turn(xp: Any, x: Any, positions: Any, rope: Rope | None) -> Any:
    """Rotates `[*B, H, L, D]`; positions `[L]` or `[*B, L]`."""
    if rope is None:
        return x
    dims = x.shape[-1] if rope.dims is None else rope.dims
    cos, sin = cos_sin(xp, positions, None, dims, rope.base, rope.scaling, rope.position_scale, x.dtype)
    if positions.ndim > 1:
        cos, sin = xp.expand_dims(cos, axis=-3), xp.expand_dims(sin, axis=-3)
    return rotate(xp, x, cos, sin, rope.traditional)


def _extra(xp: Any, k: Any, v: Any, bias_k: Any, bias_v: Any, zero: bool) -> list[tuple[Any, Any]]:
    """The rows that every query sees, whatever the masks say: a learned one, then one of zeros."""
    rows = []
    if bias_k is not None:
        rows.append(
            tuple(_row(xp, xp.reshape(b, (a.shape[-3], 1, a.shape[-1])), a) for a, b in ((k, bias_k), (v, bias_v)))
        )
    if zero:
        rows.append(tuple(_row(xp, xp.zeros((1, 1), dtype=a.dtype), a) for a in (k, v)))
    return rows


def _row(xp: Any, row: Any, like: Any) -> Any:
    return xp.broadcast_to(row, (*like.shape[:-2], 1, like.shape[-1]))


def _always(xp: Any, mask: Any, keys: int, value: int) -> Any:
    """One more column, which every query sees."""
    if mask is None:
        return None
    column = xp.astype(xp.broadcast_to(xp.asarray(value), (*mask.shape[:-1], 1)), mask.dtype)
    return xp.concat([xp.broadcast_to(mask, (*mask.shape[:-1], keys)), column], axis=-1)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Sizes go through the layer as the numbers do: |x| |W|^T, then the largest value a query may take, grown by the
    scores."""
    heads = attributes["num_heads"]
    kv_heads = attributes.get("num_kv_heads") or heads

    def sizes_of(which: str, x: Any, count: int) -> Any:
        """The sizes of a projection, head by head, normed where its numbers are."""
        size, norm = _split(np, _size(inputs, x, which), count), inputs.get(f"{which}_norm")
        if norm is None:
            return size
        numbers = product(np, _finite(x), inputs[f"{which}_proj"], inputs.get(f"{which}_bias"))
        mean = np.mean(_split(np, numbers, count) ** 2, axis=-1, keepdims=True)
        return size / np.sqrt(mean + attributes.get("norm_eps", 1e-6)) * np.max(np.abs(norm))

    query = inputs["query"]
    q = sizes_of("q", query, heads)
    k, v, bias_k, bias_v = (
        inputs.get(name) if inputs.get(name) is None else np.abs(inputs[name])
        for name in ("past_k", "past_v", "bias_k", "bias_v")
    )
    if inputs.get("k_proj") is not None:
        key = query if inputs.get("key") is None else inputs["key"]
        value = key if inputs.get("value") is None else inputs["value"]
        k, v = after(np, k, sizes_of("k", key, kv_heads)), after(np, v, sizes_of("v", value, kv_heads))
    kv = [
        np.broadcast_to(np.max(a, axis=-1, keepdims=True, initial=0), a.shape) for a in (k, v)
    ]  # rotation mixes the dims of a head
    for row_k, row_v in _extra(np, k, v, bias_k, bias_v, False):
        k, v = np.concat([k, row_k], axis=-2), np.concat([v, row_v], axis=-2)
    factor = q.shape[-1] ** -0.5 if attributes.get("scale") is None else abs(attributes["scale"])
    longest = np.repeat(np.max(np.linalg.norm(k, axis=-1), axis=-1, initial=0), heads // kv_heads, axis=-1)[
        ..., None, None
    ]
    growth = 1 + np.maximum(np.linalg.norm(q, axis=-1, keepdims=True) * longest * factor, 1)
    largest = np.repeat(np.max(v, axis=-2, keepdims=True, initial=0), heads // kv_heads, axis=-3)
    sizes = [_size(inputs, _merge(np, growth * largest), "o") + 1e-6]
    if attributes.get("need_weights"):
        sizes.append((growth if attributes["need_weights"] == "heads" else np.max(growth, axis=-3)) * outputs[1] + 1e-6)
    if attributes.get("return_kv"):
        sizes += kv
    return tuple(sizes) if len(sizes) > 1 else sizes[0]


def _inner_scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """A float32 angle is off in proportion to the position, and so are the keys it turned."""
    rope, sizes = attributes.get("rope"), _scale(inputs, attributes, outputs)
    if rope is None or not attributes.get("return_kv"):
        return tuple(0.0 for _ in sizes) if isinstance(sizes, tuple) else 0.0
    positions = inputs.get("positions")
    farthest = outputs[-2].shape[-2] if positions is None else np.max(np.abs(positions), initial=0)
    return (*(0.0 for _ in sizes[:-2]), sizes[-2] * farthest * abs(rope.position_scale), 0.0)


def _sums(inputs: Any, attributes: Any, outputs: Any, eps: float) -> Any:
    """The longest sum: of a projection, a score, or over the keys."""
    past = 0 if inputs.get("past_k") is None else inputs["past_k"].shape[-2]
    key = inputs["query"] if inputs.get("key") is None else inputs["key"]
    weights = [inputs[name] for name in ("q_proj", "k_proj", "v_proj", "o_proj") if inputs.get(name) is not None]
    longest = max(past + key.shape[-2], *(weight.shape[-1] for weight in weights)) + 1
    sizes = _scale(inputs, attributes, outputs)
    return tuple(longest**0.5 * size for size in sizes) if isinstance(sizes, tuple) else longest**0.5 * sizes


def _unread(inputs: Any, attributes: Any) -> Any:
    """Tokens of key and value, and past keys, that no query sees: nowhere where keys and values are given back."""
    if attributes.get("return_kv"):
        return {}
    lead, length = inputs["query"].shape[:-2], inputs["query"].shape[-2]
    cached = {name: inputs[name] for name in ("past_k", "past_v") if inputs.get(name) is not None}
    # a token is read as a whole: one kv head of all
    tokens = {name: inputs[name][..., None, :, :] for name in ("key", "value") if inputs.get(name) is not None}
    past = cached["past_k"].shape[-2] if cached else 0
    new = 0 if inputs.get("k_proj") is None else tokens["key"].shape[-2] if "key" in tokens else length
    places = visible(np, length, past + new, attributes.get("causal", False), attributes.get("window"))
    seen = both(np, split_mask(np, inputs.get("mask"), places)[1], of_scores(np, inputs.get("key_mask")))
    shape = (*lead, attributes["num_heads"], length, past + new)
    of_past, of_new = np.split(np.broadcast_to(True if seen is None else seen, shape), [past], axis=-1)
    unread = unread_keys(of_new, of_new.shape, **tokens)
    return unread_keys(of_past, of_past.shape, **cached) | {name: a[..., 0, :, :] for name, a in unread.items()}


def _size(inputs: Any, x: Any, which: str) -> Any:
    """|x| |W|^T + |b|."""
    weight, bias = inputs[f"{which}_proj"], inputs.get(f"{which}_bias")
    size = np.abs(_finite(x)) @ magnitude(weight).T
    return size if bias is None else size + np.abs(bias)


def _finite(x: Any) -> Any:
    """What NaN and inf stand for is seen by nobody."""
    return np.nan_to_num(x, nan=0, posinf=0, neginf=0)


mha = OpSpec(
    name="mha",
    summary="A whole attention layer: projections, heads, norms and rotation of queries and keys, cache, "
    "attention, output projection.",
    formula="o_proj(concat_h(attention(q_h, k_h, v_h))), q = rope(norm(q_proj(query))), k = past_k ++ "
    "rope(norm(k_proj(key))), "
    "v = past_v ++ v_proj(value)",
    source="Vaswani et al. 2017, arXiv:1706.03762; torch.nn.MultiheadAttention; q/k norm: Henry et al. 2020, "
    "arXiv:2010.04245",
    inputs=(
        Input("query", "*B L E"),
        Input("q_proj", "Nq E", "weight", about="[num_heads * D, E]: D, the size of a head, comes from here"),
        Input("o_proj", "No Nh", "weight", about="[No, num_heads * Dv]"),
        Input(
            "k_proj",
            "Nk Ek",
            "weight",
            optional=True,
            about="[num_kv_heads * D, Ek]; left out: all keys and values are past ones",
        ),
        Input("v_proj", "Nv Ev", "weight", optional=True, about="[num_kv_heads * Dv, Ev]"),
        Input("key", "*key S Ek", optional=True, about="left out: query"),
        Input("value", "*value S Ev", optional=True, about="left out: key"),
        Input("q_bias", "Nq", optional=True),
        Input("k_bias", "Nk", optional=True),
        Input("v_bias", "Nv", optional=True),
        Input("o_bias", "No", optional=True),
        Input("bias_k", "Mk", optional=True, about="[num_kv_heads * D]: one more key, which every query sees"),
        Input("bias_v", "Mv", optional=True, about="[num_kv_heads * Dv]: its value"),
        Input("q_norm", "Dq", optional=True, about="weight of an RMS norm over each head's query"),
        Input("k_norm", "Dk", optional=True, about="the same for keys"),
        Input("past_k", "*past_k Hkv P D", optional=True, about="keys of earlier tokens, rotated already"),
        Input("past_v", "*past_v Hkv P Dv", optional=True),
        Input("positions", "*positions", "int", optional=True, about="[L] or [*B, L], for rope; left out: P .. P+L-1"),
        Input(
            "mask", "*mask", "mask", optional=True, about="[L, P+S] or [*B, H, L, P+S]; bool True = attend, float added"
        ),
        Input("key_mask", "*key_mask", "bool", optional=True, about="[*B, P+S]: True = attend"),
        Input("sinks", "H", "float", optional=True, about="a raw logit per head, in the sum and not in the output"),
    ),
    attributes=(
        Attribute("num_heads", REQUIRED, integer(1), "heads of queries"),
        Attribute("num_kv_heads", None, optional(integer(1)), "heads of keys and values; None: num_heads"),
        *SETTINGS,
        Attribute("rope", None, optional(instance(Rope)), "rotates queries and new keys"),
        Attribute("norm_eps", 1e-6, number(minimum=0), "of q_norm and k_norm"),
        Attribute(
            "qk_norm_after_rope", False, boolean, "False: norm, then rotation, as Qwen3 does; True: as torchtune does"
        ),
        Attribute("add_zero_attn", False, boolean, "one more key and value of zeros, which every query sees"),
        Attribute(
            "need_weights", None, choice(None, "heads", "mean"), "give the weights back too, of each head or their mean"
        ),
        Attribute("return_kv", False, boolean, "give keys and values back too, past ones included, for the next call"),
    ),
    outputs=(
        Output("y", "*B L No"),
        Output("weights", "?weights"),
        Output("k", "?k", may_view=True),
        Output("v", "?v", may_view=True),
    ),
    reference=_reference,
    check=check_layer,
    flops=layer_flops,
    scale=_scale,
    inner_scale=_inner_scale,
    sums=_sums,
    more_cases="tinyllm.catalogue.cases.mha:mha",
    scheme_cases="tinyllm.catalogue.cases.schemes:mha",
    composed="tinyllm.catalogue.attention.mha_composed:mha",
    unread=_unread,
    notes=(
        *NOTES,
        "torch's nn.MultiheadAttention takes bool masks the other way round (`~mask`), and gives the mean "
        "weights unless told otherwise.",
        "Gives the output alone, or a tuple: output, then weights, k and v as far as asked for.",
        "Every projection may be a `QuantWeight`. A packed `in_proj_weight [3E, E]` is split by the caller: `q, "
        "k, v = np.split(w, 3)`.",
        "Masks cover the P past and S new keys; `bias_k` and the key of zeros come after all masks, and are in "
        "the weights' last axis.",
        "A row with nothing to attend to gives `o_bias`. Leading axes of key, value and the past are those of query.",
        "Cross attention over keys made once: call with key, value and return_kv, then with past_k and past_v "
        "and no k_proj and v_proj.",
    ),
    refused=REFUSED
    | {
        "in_proj_weight": "split it into q_proj, k_proj and v_proj",
        "in_proj_bias": "split it into q_bias, k_bias and v_bias",
        "average_attn_weights": 'use need_weights="mean" or "heads"',
        "embed_dim": "sizes come from the weights",
        "input_pos": "use positions=",
    },
    cases=CASES,
    bad_inputs=BAD_INPUTS,
)
