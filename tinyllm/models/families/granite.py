"""Granite 3 and 4, dense ones and those with experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig, MoeConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
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


def granite_hybrid(config: Mapping[str, Any]) -> DecoderConfig:
    """Granite 4 whose layers all attend, with experts or without; those with state-space layers are refused. Its GGUF
    files call themselves granite's. Source: transformers' `GraniteMoeHybridConfig`."""
    kinds = config.get("layer_types") or config.get("layers_block_type")
    if not isinstance(kinds, list) or any(kind not in ("attention", "full_attention") for kind in kinds):
        raise fail("layer_types", "attention for each layer, as there are no state-space layers", kinds)
    fields = ConfigFields({**config, "layer_types": ["full_attention"] * len(kinds)})
    fields.ignore("layers_block_type", "time_step_limit", *(field for field in config if field.startswith("mamba_")))
    fields.only("position_embedding_type", "rope", "nope")
    rotates = fields.get("position_embedding_type") == "rope"
    size = fields.integer("shared_intermediate_size", 1024)
    if fields.get("num_local_experts") == 0:
        fields.ignore("intermediate_size", "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef")
        return _decoder("granitemoehybrid", fields, MlpConfig(size), rotates)
    experts = routed_experts(
        fields, fields.integer("intermediate_size"), score="softmax_of_chosen", normalize=False, shared_size=size
    )
    return _decoder("granitemoehybrid", fields, experts, rotates)


def _decoder(name: str, fields: ConfigFields, mlp: MlpConfig | MoeConfig, rotates: bool = True) -> DecoderConfig:
    fields.only("hidden_act", "silu")
    bias = fields.flag("attention_bias", False)
    attends = attention(fields, qkv_bias=bias, o_bias=bias, scale=fields.number("attention_multiplier", 1.0))
    layer = LayerConfig(
        attends if rotates else replace(attends, rope=None),
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


def _keys(config: DecoderConfig) -> dict[str, Any]:
    """Granite divides logits."""
    return {"logit_scale": 1 / config.logit_multiplier}


_IN_GGUF = (*ROTATED_BY_NEIGHBOURS, *GGUF_SHARED_EXPERT, *GGUF_NAMES)
_IN_FOLDERS = (
    *renamed({"mlp.gate": "block_sparse_moe.router.layer"}),
    *(
        TensorRule(f"{LAYER}{module}.{theirs}_linear", tuple(f"{LAYER}mlp.{inner}.{name}_proj" for name in names))
        for module, inner in (("block_sparse_moe", "experts"), ("shared_mlp", "shared_expert"))
        for theirs, names in (("input", ("gate", "up")), ("output", ("down",)))
    ),
)
_DENSE_IN_FOLDERS = (
    TensorRule(f"{LAYER}shared_mlp.input_linear", (f"{LAYER}mlp.gate_proj", f"{LAYER}mlp.up_proj")),
    TensorRule(f"{LAYER}shared_mlp.output_linear", (f"{LAYER}mlp.down_proj",)),
)
FAMILIES = (
    Family("granite", ("granite",), granite, gguf=GgufForm(("granite",), _from_gguf, _IN_GGUF, _keys)),
    Family(
        "granitemoe",
        ("granitemoe", "granitemoeshared"),
        granite_moe,
        _IN_FOLDERS,
        GgufForm(("granitemoe",), _moe_from_gguf, _IN_GGUF, _keys),
    ),
    Family("granitemoehybrid", ("granitemoehybrid",), granite_hybrid, (*_IN_FOLDERS, *_DENSE_IN_FOLDERS)),
)
