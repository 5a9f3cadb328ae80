"""Granite 3 and 4, dense ones and those with experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig, MoeConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.experts import GGUF_SHARED_EXPERT, experts_alone_of_gguf, routed_experts
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm, attention, decoder, full_attention
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.llama import ROTATED_BY_NEIGHBOURS
from tinyllm.models.families.tensor_rules import LAYER, TensorRule, renamed


def granite(config: Mapping[str, Any]) -> DecoderConfig:
    """Granite: multipliers of embeddings, of scores and of what layers add, and a divisor of logits. Source:
    transformers' `GraniteConfig`."""
    fields = ConfigFields(config)
    return _decoder(
        "granite", fields, MlpConfig(fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    )


def granite_moe(config: Mapping[str, Any]) -> DecoderConfig:
    """Granite with experts, and perhaps one that every token goes through.

    Source: transformers' `GraniteMoeConfig` and `GraniteMoeSharedConfig`."""
    fields = ConfigFields(config)
    shared = fields.get("shared_intermediate_size") and fields.integer("shared_intermediate_size")
    experts = routed_experts(
        fields,
        fields.integer("intermediate_size"),
        score="softmax_of_chosen",
        normalize=False,
        shared_size=shared or 0,
    )
    return _decoder(config["model_type"], fields, experts)


def _decoder(name: str, fields: ConfigFields, mlp: MlpConfig | MoeConfig) -> DecoderConfig:
    fields.only("hidden_act", "silu")
    bias = fields.flag("attention_bias", False)
    layer = LayerConfig(
        attention(fields, qkv_bias=bias, o_bias=bias, scale=fields.number("attention_multiplier", 1.0)),
        mlp,
        residual_multiplier=fields.number("residual_multiplier", 1.0),
    )
    return decoder(
        name,
        fields,
        (layer,) * full_attention(fields),
        embedding_multiplier=fields.number("embedding_multiplier", 1.0),
        logit_multiplier=1 / fields.number("logits_scaling", 1.0),
    )


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return _config_of_gguf(fields, "granite") | fields.biases()


def _moe_from_gguf(fields: GgufFields) -> dict[str, Any]:
    shared = fields.integer("expert_shared_feed_forward_length", 0)
    return (
        _config_of_gguf(fields, "granitemoeshared")
        | experts_alone_of_gguf(fields)
        | {
            "shared_intermediate_size": shared,
            "attention_bias": fields.biases()["attention_bias"],
        }
    )


def _config_of_gguf(fields: GgufFields, model_type: str) -> dict[str, Any]:
    config = config_of_gguf(fields, model_type)
    return config | {
        "embedding_multiplier": fields.number("embedding_scale", 1.0),
        "residual_multiplier": fields.number("residual_scale", 1.0),
        "attention_multiplier": fields.number("attention.scale", config["head_dim"] ** -0.5),
        "logits_scaling": fields.number("logit_scale", 1.0),
    }


_IN_GGUF = (*ROTATED_BY_NEIGHBOURS, *GGUF_SHARED_EXPERT, *GGUF_NAMES)
_IN_FOLDERS = (
    *renamed({"mlp.gate": "block_sparse_moe.router.layer"}),
    *(
        TensorRule(f"{LAYER}{module}.{theirs}_linear", tuple(f"{LAYER}mlp.{inner}.{name}_proj" for name in names))
        for module, inner in (("block_sparse_moe", "experts"), ("shared_mlp", "shared_expert"))
        for theirs, names in (("input", ("gate", "up")), ("output", ("down",)))
    ),
)
FAMILIES = (
    Family("granite", ("granite",), granite, gguf=GgufForm(("granite",), _from_gguf, _IN_GGUF)),
    Family(
        "granitemoe",
        ("granitemoe", "granitemoeshared"),
        granite_moe,
        _IN_FOLDERS,
        GgufForm(("granitemoe",), _moe_from_gguf, _IN_GGUF),
    ),
)
