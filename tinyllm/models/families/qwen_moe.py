"""Qwen2 and Qwen3 with mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, LayerConfig, MlpConfig, MoeConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.experts import (
    GGUF_SHARED_EXPERT,
    experts_in,
    experts_of_gguf,
    softmax_experts,
    sparse_layers,
)
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    attention,
    attention_by_kind,
    decoder,
    layer_kinds,
)
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields


def qwen3_moe(config: Mapping[str, Any]) -> DecoderConfig:
    """Qwen3-MoE, with norms of each head's queries and keys. Source: transformers' `Qwen3MoeConfig`."""
    fields = ConfigFields({"max_position_embeddings": 32768} | dict(config))
    bias = fields.flag("attention_bias", False)
    attends = attention(fields, qkv_bias=bias, o_bias=bias, qk_norm="head")
    slides = fields.flag("use_sliding_window", False)
    fields.ignore("max_window_layers")
    kinds = layer_kinds(fields, lambda layer: "sliding_attention" if slides else "full_attention")
    return _decoder("qwen3_moe", fields, attends, kinds, softmax_experts(fields))


def qwen2_moe(config: Mapping[str, Any]) -> DecoderConfig:
    """Qwen1.5-MoE and Qwen2-MoE, with an expert that every token goes through. Source: transformers'
    `Qwen2MoeConfig`."""
    fields = ConfigFields({"max_position_embeddings": 32768} | dict(config))
    attends = attention(fields, qkv_bias=fields.flag("qkv_bias", True))
    slides = fields.flag("use_sliding_window", False)
    last = fields.integer("max_window_layers", 28) if slides else 0
    fields.ignore("max_window_layers")
    kinds = layer_kinds(
        fields, lambda layer: "sliding_attention" if slides and layer % 2 == 0 and layer < last else "full_attention"
    )
    shared = fields.integer("shared_expert_intermediate_size")
    return _decoder("qwen2_moe", fields, attends, kinds, softmax_experts(fields, shared_size=shared, shared_gate=True))


def _decoder(
    name: str, fields: ConfigFields, attends: AttentionConfig, kinds: list[str], experts: MoeConfig
) -> DecoderConfig:
    fields.only("hidden_act", "silu")
    if not fields.get("sliding_window") and "sliding_attention" in kinds:
        raise fail("sliding_window", "a positive integer where layers slide", fields.get("sliding_window"))
    by_kind = attention_by_kind(fields, attends, kinds)
    fed = sparse_layers(fields, MlpConfig(fields.integer("intermediate_size")), experts)
    layers = tuple(LayerConfig(by_kind[kind], fed(number)) for number, kind in enumerate(kinds))
    return decoder(name, fields, layers)


def _from_gguf(model_type: str, **more: Any) -> Any:
    def config(fields: GgufFields) -> dict[str, Any]:
        every = {"decoder_sparse_step": 1, "mlp_only_layers": []}
        made = config_of_gguf(fields, model_type) | experts_of_gguf(fields) | every | more
        if model_type == "qwen2_moe":
            made["shared_expert_intermediate_size"] = fields.integer("expert_shared_feed_forward_length")
        return made

    return config


_IN_GGUF = (*GGUF_SHARED_EXPERT, *GGUF_NAMES)
FAMILIES = (
    Family(
        "qwen3_moe",
        ("qwen3_moe",),
        qwen3_moe,
        experts_in(),
        GgufForm(("qwen3moe",), _from_gguf("qwen3_moe", norm_topk_prob=True), _IN_GGUF),
    ),
    Family(
        "qwen2_moe", ("qwen2_moe",), qwen2_moe, experts_in(), GgufForm(("qwen2moe",), _from_gguf("qwen2_moe"), _IN_GGUF)
    ),
)
