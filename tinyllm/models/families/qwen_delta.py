"""Qwen3-Next and Qwen3.5: the gated delta rule in three of four layers, gated attention in the fourth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.models.decoder.config import (
    AttentionConfig,
    DecoderConfig,
    GatedDeltaConfig,
    LayerConfig,
    Mixer,
    MlpConfig,
    NormConfig,
)
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.experts import (
    GGUF_SHARED_EXPERT,
    experts_in,
    experts_of_gguf,
    softmax_experts,
    sparse_layers,
)
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm, attention, decoder, max_position
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.rope_fields import rope_fields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule

_LINEAR, _FULL = "linear_attention", "full_attention"
_TILED = "linear_value_heads_tiled"
"""A field of no `config.json`, for GGUF files whose heads of values lie in another order than in folders."""


def qwen3_next(config: Mapping[str, Any]) -> DecoderConfig:
    """Qwen3-Next: the gated delta rule in three of four layers, gated attention in the fourth, and many experts.
    Source: transformers' `Qwen3NextConfig`."""
    fields = ConfigFields(config)
    shared = fields.integer("shared_expert_intermediate_size")
    experts = softmax_experts(fields, normalize=True, shared_size=shared, shared_gate=True)
    fed = sparse_layers(fields, MlpConfig(fields.integer("intermediate_size", 5632)), experts)
    return _decoder("qwen3_next", fields, [fed(number) for number in range(fields.integer("num_hidden_layers"))])


def qwen3_5(config: Mapping[str, Any]) -> DecoderConfig:
    """The text of Qwen3.5: the gated delta rule in three of four layers, gated attention in the fourth. Source:
    transformers' `Qwen3_5TextConfig`."""
    fields = ConfigFields(config)
    mlp = MlpConfig(fields.integer("intermediate_size"))
    return _decoder("qwen3_5_text", fields, [mlp] * fields.integer("num_hidden_layers"))


def qwen3_5_moe(config: Mapping[str, Any]) -> DecoderConfig:
    """The text of Qwen3.5 with experts, built as Qwen3-Next is. Source: transformers' `Qwen3_5MoeTextConfig`."""
    fields = ConfigFields(config)
    shared = fields.integer("shared_expert_intermediate_size")
    experts = softmax_experts(fields, normalize=True, shared_size=shared, shared_gate=True)
    fields.ignore("intermediate_size")  # no layer is dense
    return _decoder("qwen3_5_moe_text", fields, [experts] * fields.integer("num_hidden_layers"))


def _decoder(name: str, fields: ConfigFields, fed: list[Any]) -> DecoderConfig:
    fields.only("hidden_act", "silu")
    fields.ignore("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")  # layers that draft, which are not loaded
    fields.only("attn_output_gate", True)
    bias = fields.flag("attention_bias", False)
    rope = rope_fields(fields, max_position(fields), share=0.25)
    attends = attention(fields, rope, qk_norm="head", qkv_bias=bias, o_bias=bias, gated="whole")
    key_heads, value_heads = fields.integer("linear_num_key_heads"), fields.integer("linear_num_value_heads")
    if value_heads % key_heads:
        raise fail("linear_num_value_heads", f"a multiple of the {key_heads} of keys", value_heads)
    dims = fields.integer("linear_key_head_dim"), fields.integer("linear_value_head_dim")
    width, tiled = fields.integer("linear_conv_kernel_dim"), fields.flag(_TILED, False)
    delta = GatedDeltaConfig(key_heads, value_heads, *dims, width, tiled)
    kinds = _kinds(fields, len(fed))
    layers = tuple(
        LayerConfig(delta if kind == _LINEAR else attends, mlp) for kind, mlp in zip(kinds, fed, strict=True)
    )
    return decoder(name, fields, layers, NormConfig(fields.number("rms_norm_eps", 1e-6), offset=1.0))


def _kinds(fields: ConfigFields, count: int) -> list[str]:
    interval, kinds = fields.integer("full_attention_interval", 4), fields.get("layer_types")
    if kinds is None:
        return [_LINEAR if (layer + 1) % interval else _FULL for layer in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count or any(kind not in (_LINEAR, _FULL) for kind in kinds):
        raise fail("layer_types", f"{_LINEAR} or {_FULL} for each of {count} layers", kinds)
    return kinds


def _queries(attention: Mixer, rows: int, second: bool = False) -> NDArray[np.intp]:
    """Rows of `q_proj`: in each head those of the query, then those of its gate."""
    dim = attention.head_dim if isinstance(attention, AttentionConfig) else rows
    heads = np.arange(rows // dim)[:, None] * 2 * dim
    order: NDArray[np.intp] = (heads + dim * second + np.arange(dim)).reshape(-1)
    return order


def _gates(attention: Mixer, rows: int) -> NDArray[np.intp]:
    return _queries(attention, rows, second=True)


def _parts(delta: Mixer, parts: tuple[int, ...], sizes: tuple[int, ...]) -> NDArray[np.intp]:
    """Rows that lie head by head of the keys, each with parts of some sizes one after the other, taken part by part."""
    if not isinstance(delta, GatedDeltaConfig):
        raise TypeError(f"expected the gated delta rule, got {delta}")
    heads = np.arange(delta.num_heads)[:, None] * sum(sizes)
    taken = [(heads + sum(sizes[:part]) + np.arange(sizes[part])).reshape(-1) for part in parts]
    order: NDArray[np.intp] = np.concatenate(taken)
    return order


def _of_qkvz(*parts: int) -> Any:
    def order(delta: Any, rows: int) -> NDArray[np.intp]:
        values = delta.num_value_heads // delta.num_heads * delta.value_head_dim
        return _parts(delta, parts, (delta.head_dim, delta.head_dim, values, values))

    return order


def _of_ba(part: int) -> Any:
    def order(delta: Any, rows: int) -> NDArray[np.intp]:
        each = delta.num_value_heads // delta.num_heads
        return _parts(delta, (part,), (each, each))

    return order


_DELTA = f"{LAYER}linear_attn."
_OF_BOTH = (
    TensorRule(
        f"{LAYER}self_attn.q_proj",
        (f"{LAYER}self_attn.q_proj", f"{LAYER}self_attn.q_gate_proj"),
        order=(_queries, _gates),
    ),
    TensorRule(f"{_DELTA}conv1d.weight", (f"{_DELTA}conv1d.weight",), squeezed=True),
    *experts_in(),
)
_OF_NEXT = (
    TensorRule(
        f"{_DELTA}in_proj_qkvz",
        (f"{_DELTA}in_proj_qkv", f"{_DELTA}in_proj_z"),
        order=(_of_qkvz(0, 1, 2), _of_qkvz(3)),
    ),
    TensorRule(f"{_DELTA}in_proj_ba", (f"{_DELTA}in_proj_b", f"{_DELTA}in_proj_a"), order=(_of_ba(0), _of_ba(1))),
)


def _from_gguf(fields: GgufFields, model_type: str, tiled: bool, experts: bool) -> dict[str, Any]:
    """Layers that draft tokens are counted among the others."""
    of_experts = experts_of_gguf(fields) if experts else {}
    config = config_of_gguf(fields, model_type, inner_size=of_experts.get("moe_intermediate_size")) | of_experts
    config["num_hidden_layers"] -= fields.integer("nextn_predict_layers", 0)
    if experts:
        config["shared_expert_intermediate_size"] = fields.integer("expert_shared_feed_forward_length")
    fields.ignore("rope.dimension_sections")  # they speak of pictures
    heads, values = fields.integer("ssm.time_step_rank"), fields.integer("ssm.inner_size")
    if values % heads:
        raise fields.fail("ssm.inner_size", f"a multiple of the {heads} heads", values)
    return (
        {"partial_rotary_factor": 1}
        | config
        | {
            "linear_num_key_heads": fields.integer("ssm.group_count"),
            "linear_key_head_dim": fields.integer("ssm.state_size"),
            "linear_num_value_heads": heads,
            "linear_value_head_dim": values // heads,
            "linear_conv_kernel_dim": fields.integer("ssm.conv_kernel"),
            "full_attention_interval": fields.integer("full_attention_interval", 4),
            "attention_bias": fields.has_tensor("attn_q.bias"),
            _TILED: tiled,
        }
    )


def _gguf(architecture: str, model_type: str, tiled: bool = True, experts: bool = True) -> GgufForm:
    return GgufForm((architecture,), lambda fields: _from_gguf(fields, model_type, tiled, experts), _IN_GGUF)


_IN_BLOCK = {
    "attn_qkv": "in_proj_qkv",
    "attn_gate": "in_proj_z",
    "ssm_beta": "in_proj_b",
    "ssm_alpha": "in_proj_a",
    "ssm_conv1d": "conv1d",
    "ssm_dt.bias": "dt_bias",
    "ssm_norm": "norm",
    "ssm_out": "out_proj",
}
_IN_GGUF = (
    replace(_OF_BOTH[0], tensor="blk.{layer}.attn_q"),
    replace(_OF_NEXT[0], tensor="blk.{layer}.ssm_in"),  # in Qwen3-Next's first files
    replace(_OF_NEXT[1], tensor="blk.{layer}.ssm_ba"),
    *(TensorRule(f"blk.{{layer}}.{theirs}", (_DELTA + ours,)) for theirs, ours in _IN_BLOCK.items()),
    TensorRule("blk.{layer}.ssm_a", (f"{_DELTA}A_log",), convert=lambda rates: np.log(-rates)),
    TensorRule("blk.{layer}.post_attention_norm", (f"{LAYER}post_attention_layernorm",), offset=-1.0),
    *GGUF_SHARED_EXPERT,
    *(replace(rule, offset=-1.0) if "norm" in rule.tensor else rule for rule in GGUF_NAMES),
)
DRAFTING = ("mtp.", "blk.{layers}.")
"""Tensors of layers that draft tokens."""
FAMILIES = (
    Family(
        "qwen3_next",
        ("qwen3_next",),
        qwen3_next,
        (*_OF_NEXT, *_OF_BOTH),
        _gguf("qwen3next", "qwen3_next", tiled=False),
        DRAFTING,
    ),
    Family(
        "qwen3_5_text", ("qwen3_5_text",), qwen3_5, _OF_BOTH, _gguf("qwen35", "qwen3_5_text", experts=False), DRAFTING
    ),
    Family(
        "qwen3_5_moe_text",
        ("qwen3_5_moe_text",),
        qwen3_5_moe,
        _OF_BOTH,
        _gguf("qwen35moe", "qwen3_5_moe_text"),
        DRAFTING,
    ),
)
