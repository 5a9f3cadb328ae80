"""MiniMax-M2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.experts import (
    CORRECTION_BIAS,
    GGUF_CORRECTION_BIAS,
    experts_in,
    routed_experts,
    sigmoid_experts_of_gguf,
)
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    attention,
    decoder,
    full_attention,
    max_position,
)
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.rope_fields import rope_fields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule, renamed

# What published files say of all models of this kind.
_FIXED = {
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "scoring_func": "sigmoid",
    "use_routing_bias": True,
    "shared_intermediate_size": 0,
}


def minimax_m2(config: Mapping[str, Any]) -> DecoderConfig:
    """MiniMax-M2: norms of all queries and of all keys at once, a share of each head rotated, experts by sigmoids with
    a bias for the choice. Source: transformers' `MiniMaxM2Config`."""
    fields = ConfigFields(config)
    fields.only("hidden_act", "silu")
    for field, value in _FIXED.items():
        fields.only(field, value)
    fields.ignore("use_mtp", "num_mtp_modules", "mtp_transformer_layers")  # layers that guess further tokens
    kinds = fields.get("attn_type_list", [])
    if not isinstance(kinds, list) or any(kind != 1 for kind in kinds):
        raise fail("attn_type_list", "1 for each layer", kinds)
    head_dim = fields.integer("head_dim", 128)
    if (rotated := fields.integer("rotary_dim", head_dim)) > head_dim:
        raise fail("rotary_dim", f"at most the head size {head_dim}", rotated)
    experts = routed_experts(fields, fields.integer("intermediate_size"), score="sigmoid", correction_bias=True)
    rope = rope_fields(fields, max_position(fields), theta=5e6, share=rotated / head_dim)
    layer = LayerConfig(attention(fields, rope, qk_norm="whole"), experts)
    return decoder("minimax_m2", fields, (layer,) * full_attention(fields))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    made = config_of_gguf(fields, "minimax_m2") | sigmoid_experts_of_gguf(fields)
    for field, value, key in (
        ("norm_topk_prob", True, "expert_weights_norm"),
        ("routed_scaling_factor", 1.0, "expert_weights_scale"),
    ):
        if (got := made.pop(field)) != value:
            raise fields.fail(key, str(value), got)
    return made | {"intermediate_size": made.pop("moe_intermediate_size")}


FAMILY = Family(
    "minimax_m2",
    ("minimax_m2",),
    minimax_m2,
    (
        *renamed({"mlp.gate": "block_sparse_moe.gate"}),
        *experts_in("block_sparse_moe", ("w1", "w3", "w2")),
        TensorRule(f"{LAYER}block_sparse_moe.e_score_correction_bias", (CORRECTION_BIAS,)),
    ),
    GgufForm(("minimax-m2",), _from_gguf, (GGUF_CORRECTION_BIAS, *GGUF_NAMES)),
    skipped=("model.layers.{layers}.",),
)
