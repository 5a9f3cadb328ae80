"""Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import Family, GgufForm, attention, decoder
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.qwen2 import attentions_of_layers, config_of_qwen_gguf


def qwen3(config: Mapping[str, Any]) -> DecoderConfig:
    """Qwen3, with norms of each head's queries and keys. Source: transformers' `Qwen3Config`."""
    fields = ConfigFields({"head_dim": 128, "max_position_embeddings": 32768} | dict(config))
    fields.only("hidden_act", "silu")
    bias = fields.flag("attention_bias", False)
    mlp = MlpConfig(fields.integer("intermediate_size"))
    attentions = attentions_of_layers(fields, attention(fields, qkv_bias=bias, o_bias=bias, qk_norm="head"))
    return decoder("qwen3", fields, tuple(LayerConfig(attends, mlp) for attends in attentions))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return config_of_qwen_gguf(fields, "qwen3") | {"attention_bias": fields.biases()["attention_bias"]}


FAMILY = Family("qwen3", ("qwen3",), qwen3, gguf=GgufForm(("qwen3",), _from_gguf))
