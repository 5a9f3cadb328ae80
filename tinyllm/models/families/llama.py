"""Llama 1 to 3.x, SmolLM2, TinyLlama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.experts import experts_alone_of_gguf
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm, activation, attention, decoder, full_attention
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule, interleaved_pairs


def llama(config: Mapping[str, Any]) -> DecoderConfig:
    """Llama 1 to 3.x, SmolLM2, TinyLlama. Source: transformers' `LlamaConfig`."""
    fields = ConfigFields(config)
    fields.only("pretraining_tp", 1)  # more would sum slices in another order
    fields.only("rope_interleaved", False)
    fields.only("hidden_act", "silu")
    bias = fields.flag("attention_bias", False)
    mlp = MlpConfig(fields.integer("intermediate_size"), activation(fields), fields.flag("mlp_bias", False))
    layer = LayerConfig(attention(fields, qkv_bias=bias, o_bias=bias), mlp)
    return decoder("llama", fields, (layer,) * full_attention(fields))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """Mistral's and Mixtral's files call themselves llama's."""
    window = {}
    if fields.get("attention.sliding_window"):
        window = {"sliding_window": fields.integer("attention.sliding_window")}
    if fields.get("expert_count"):
        return config_of_gguf(fields, "mixtral") | experts_alone_of_gguf(fields) | window
    if window:
        return config_of_gguf(fields, "mistral") | window
    return config_of_gguf(fields, "llama") | fields.biases()


ROTATED_BY_NEIGHBOURS = tuple(
    TensorRule(f"blk.{{layer}}.attn_{name}", (f"{LAYER}self_attn.{name}_proj",), order=interleaved_pairs)
    for name in ("q", "k")
)
"""Queries and keys of GGUF files whose rotation is by neighbours, where folders have it by halves."""

FAMILY = Family(
    "llama", ("llama",), llama, gguf=GgufForm(("llama",), _from_gguf, (*ROTATED_BY_NEIGHBOURS, *GGUF_NAMES))
)
