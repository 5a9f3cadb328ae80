"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.family import Family, GgufForm, attention, attention_by_kind, decoder, layer_kinds
from tinyllm.models.families.gguf_config import config_of_gguf, windows_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields


def qwen2(config: Mapping[str, Any]) -> DecoderConfig:
    """Qwen2 and Qwen2.5, with biases on q, k and v. Source: transformers' `Qwen2Config`."""
    fields = ConfigFields({"max_position_embeddings": 32768} | dict(config))
    fields.only("use_mrope", False)
    fields.only("hidden_act", "silu")
    mlp = MlpConfig(fields.integer("intermediate_size"))
    attentions = attentions_of_layers(fields, attention(fields, qkv_bias=True))
    return decoder("qwen2", fields, tuple(LayerConfig(attends, mlp) for attends in attentions))


def attentions_of_layers(fields: ConfigFields, attention: AttentionConfig) -> list[AttentionConfig]:
    """The attention of each layer: where `use_sliding_window` says so, those from `max_window_layers` on slide."""
    slides = fields.flag("use_sliding_window", False)
    first = fields.integer("max_window_layers", 28) if slides else 0
    fields.ignore("max_window_layers")  # it speaks only where use_sliding_window is true
    kinds = layer_kinds(fields, lambda layer: "sliding_attention" if slides and layer >= first else "full_attention")
    if not slides and "sliding_attention" in kinds:
        raise fail("layer_types", "full_attention alone where use_sliding_window is false", kinds)
    by_kind = attention_by_kind(fields, attention, kinds)
    return [by_kind[kind] for kind in kinds]


def config_of_qwen_gguf(fields: GgufFields, model_type: str) -> dict[str, Any]:
    """The `config.json` of Qwen's dense models."""
    windows = windows_of_gguf(fields)
    slides = "sliding_attention" in windows["layer_types"]
    return config_of_gguf(fields, model_type) | windows | {"use_sliding_window": slides}


FAMILY = Family(
    "qwen2", ("qwen2",), qwen2, gguf=GgufForm(("qwen2",), lambda fields: config_of_qwen_gguf(fields, "qwen2"))
)
