"""Granite 3 and 4, dense ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm, attention, decoder, full_attention
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.llama import ROTATED_BY_NEIGHBOURS


def granite(config: Mapping[str, Any]) -> DecoderConfig:
    """Granite: multipliers of embeddings, of scores and of what layers add, and a divisor of logits. Source:
    transformers' `GraniteConfig`."""
    fields = ConfigFields(config)
    fields.only("hidden_act", "silu")
    bias = fields.flag("attention_bias", False)
    scale = fields.number("attention_multiplier", 1.0)
    layer = LayerConfig(
        attention(fields, qkv_bias=bias, o_bias=bias, scale=scale),
        MlpConfig(fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False)),
        residual_multiplier=fields.number("residual_multiplier", 1.0),
    )
    return decoder(
        "granite",
        fields,
        (layer,) * full_attention(fields),
        embedding_multiplier=fields.number("embedding_multiplier", 1.0),
        logit_multiplier=1 / fields.number("logits_scaling", 1.0),
    )


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    config = config_of_gguf(fields, "granite")
    multipliers = {
        "embedding_multiplier": fields.number("embedding_scale", 1.0),
        "residual_multiplier": fields.number("residual_scale", 1.0),
        "attention_multiplier": fields.number("attention.scale", config["head_dim"] ** -0.5),
        "logits_scaling": fields.number("logit_scale", 1.0),
    }
    return config | multipliers | fields.biases()


_GGUF = GgufForm(("granite",), _from_gguf, (*ROTATED_BY_NEIGHBOURS, *GGUF_NAMES))
FAMILY = Family("granite", ("granite",), granite, gguf=_GGUF)
