"""Phi-3, Phi-3.5 and Phi-4, mini ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig, NormConfig
from tinyllm.models.families.config_fields import ConfigFields
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
from tinyllm.models.families.tensor_rules import GGUF_MERGED_GATE_UP, GGUF_MERGED_QKV, MERGED_GATE_UP, MERGED_QKV


def phi3(config: Mapping[str, Any]) -> DecoderConfig:
    """Phi-3 to Phi-4: merged projections, a share of each head rotated, longrope, one window for all layers. Source:
    transformers' `Phi3Config`."""
    fields = ConfigFields(config)
    fields.only("hidden_act", "silu")
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.only(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):
        fields.only(name, 1)
    window = None if fields.get("sliding_window") is None else fields.integer("sliding_window")
    rope = rope_fields(fields, max_position(fields))
    layer = LayerConfig(attention(fields, rope, window=window), MlpConfig(fields.integer("intermediate_size")))
    return decoder("phi3", fields, (layer,) * full_attention(fields), NormConfig(fields.number("rms_norm_eps", 1e-5)))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return config_of_gguf(fields, "phi3") | {"sliding_window": fields.get("attention.sliding_window") or None}


FAMILY = Family(
    "phi3",
    ("phi3",),
    phi3,
    (MERGED_QKV, MERGED_GATE_UP),
    GgufForm(("phi3",), _from_gguf, (GGUF_MERGED_QKV, GGUF_MERGED_GATE_UP, *GGUF_NAMES)),
)
