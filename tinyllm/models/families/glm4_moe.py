"""GLM-4.5 to 4.7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.experts import (
    GGUF_CORRECTION_BIAS,
    GGUF_SHARED_EXPERT,
    SHARED_EXPERTS,
    expert_groups,
    experts_in,
    first_dense,
    sigmoid_experts,
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
from tinyllm.models.families.tensor_rules import LAYER, TensorRule


def glm4_moe(config: Mapping[str, Any]) -> DecoderConfig:
    """GLM-4.5 to 4.7: half of each head is rotated; experts by sigmoids with a bias for the choice, in groups.

    Source: transformers' `Glm4MoeConfig`."""
    fields = ConfigFields(config)
    fields.only("hidden_act", "silu")
    fields.ignore(
        "num_nextn_predict_layers", "num_mtp_layers"
    )  # layers that guess further tokens come after the others
    attends = attention(
        fields,
        rope_fields(fields, max_position(fields), share=0.5),
        qkv_bias=fields.flag("attention_bias", False),
        qk_norm="head" if fields.flag("use_qk_norm", False) else "",
    )
    experts = sigmoid_experts(
        fields,
        correction_bias=True,
        shared_size=fields.integer("n_shared_experts", 1) * fields.integer("moe_intermediate_size"),
        **expert_groups(fields),
    )
    fed = first_dense(fields, "first_k_dense_replace", 1, MlpConfig(fields.integer("intermediate_size")), experts)
    layers = tuple(LayerConfig(attends, fed(number)) for number in range(full_attention(fields)))
    return decoder("glm4_moe", fields, layers)


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """Layers that guess further tokens are counted among the others."""
    config = {"partial_rotary_factor": 1} | config_of_gguf(fields, "glm4_moe") | sigmoid_experts_of_gguf(fields)
    config["num_hidden_layers"] -= fields.integer("nextn_predict_layers", 0)
    config["n_routed_experts"] = config.pop("num_experts")
    return config | {
        "n_shared_experts": fields.integer("expert_shared_count"),
        "n_group": fields.integer("expert_group_count", 1),
        "topk_group": fields.integer("expert_group_used_count", 1),
        "first_k_dense_replace": fields.integer("leading_dense_block_count", 0),
        "attention_bias": fields.has_tensor("attn_q.bias"),
        "use_qk_norm": fields.has_tensor("attn_q_norm.weight"),
    }


_IN_GGUF = (
    TensorRule("blk.{layer}.post_attention_norm", (f"{LAYER}post_attention_layernorm",)),
    GGUF_CORRECTION_BIAS,
    *GGUF_SHARED_EXPERT,
    *GGUF_NAMES,
)
FAMILY = Family(
    "glm4_moe",
    ("glm4_moe",),
    glm4_moe,
    (*SHARED_EXPERTS, *experts_in()),
    GgufForm(("glm4moe",), _from_gguf, _IN_GGUF),
    skipped=("model.layers.{layers}.", "blk.{layers}."),
)
