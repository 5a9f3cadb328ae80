"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.family import Family, GgufForm, attention, decoder, full_attention, plain_gguf


def qwen2(config: Mapping[str, Any]) -> DecoderConfig:
    """Qwen2 and Qwen2.5, with biases on q, k and v. Source: transformers' `Qwen2Config`."""
    fields = ConfigFields(config)
    if fields.flag("use_sliding_window", False):
        raise fail("use_sliding_window", "false", True)
    fields.ignore("sliding_window", "max_window_layers")  # they speak only where use_sliding_window is true
    fields.only("use_mrope", False)
    fields.only("hidden_act", "silu")
    layer = LayerConfig(attention(fields, qkv_bias=True), MlpConfig(fields.integer("intermediate_size")))
    return decoder("qwen2", fields, (layer,) * full_attention(fields))


FAMILY = Family("qwen2", ("qwen2",), qwen2, gguf=GgufForm(("qwen2",), plain_gguf("qwen2")))
