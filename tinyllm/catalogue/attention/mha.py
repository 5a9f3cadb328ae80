"""mha: the whole attention layer, projections included, as `MultiHeadAttention` of the libraries computes it at
inference."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.attention.formula import (
    NOTES,
    REFUSED,
    SETTINGS,
    both,
    of_scores,
    split_mask,
    unread_keys,
    visible,
)
from tinyllm.catalogue.attention.mha_cases import BAD_INPUTS, CASES
from tinyllm.catalogue.attention.mha_checks import check_layer, layer_flops
from tinyllm.catalogue.attention.mha_errors import error_sizes
from tinyllm.catalogue.attention.mha_formula import attended, merge
from tinyllm.catalogue.products.linear import product
from tinyllm.spec.attribute_checks import boolean, choice, instance, integer, number, optional
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.rope import Rope


def _reference(
    xp: Any,
    query: Any,
    q_proj: Any,
    o_proj: Any,
    *,
    o_bias: Any = None,
    need_weights: str | None = None,
    return_kv: bool = False,
    **settings: Any,
) -> Any:
    layer = attended(xp, query, q_proj, **settings)
    outputs = [product(xp, merge(xp, layer.y), o_proj, o_bias)]
    if need_weights:
        outputs.append(layer.weights if need_weights == "heads" else xp.mean(layer.weights, axis=-3))
    if return_kv:
        outputs += [layer.k, layer.v]
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    """The longest sum: of a projection, a score, or over the keys."""
    past = 0 if inputs.get("past_k") is None else inputs["past_k"].shape[-2]
    key = inputs["query"] if inputs.get("key") is None else inputs["key"]
    weights = [inputs[name] for name in ("q_proj", "k_proj", "v_proj", "o_proj") if inputs.get(name) is not None]
    longest = max(past + key.shape[-2], *(weight.shape[-1] for weight in weights)) + 1
    return tuple(longest**0.5 * size for size in scale) if isinstance(scale, tuple) else longest**0.5 * scale


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
    scale=error_sizes,
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
