"""Llama 1 to 3.x, SmolLM2, TinyLlama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import Family, decoder


def llama(config: Mapping[str, Any]) -> DecoderConfig:
    """Llama 1 to 3.x, SmolLM2, TinyLlama. Source: transformers' `LlamaConfig`."""
    fields = ConfigFields(config)
    fields.only("pretraining_tp", 1)  # more would sum slices in another order
    fields.only("rope_interleaved", False)
    attention_bias = fields.flag("attention_bias", False)
    return decoder(
        "llama", fields, qkv_bias=attention_bias, o_bias=attention_bias, mlp_bias=fields.flag("mlp_bias", False)
    )


FAMILY = Family("llama", ("llama",), llama)
