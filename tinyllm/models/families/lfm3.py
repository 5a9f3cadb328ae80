"""LFM3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import (
    DecoderConfig,
    LayerConfig,
    Mixer,
    MlpConfig,
    NormConfig,
    Places,
    ShortConvConfig,
)
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.family import Family, attention, decoder, max_position
from tinyllm.models.families.lfm2 import OF_ALL
from tinyllm.models.families.rope_fields import rope_fields
from tinyllm.models.families.tensor_rules import renamed

_CONV, _FULL, _SLIDING = "conv", "full_attention", "sliding_attention"
_ROPES = {
    _SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    _FULL: {"rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.5},
}


def lfm3(config: Mapping[str, Any]) -> DecoderConfig:
    """LFM3: short convolutions between gates in half of the layers, attention in the others, half of them sliding, its
    heads gated; norms before and after. Source: transformers' `Lfm3Config`."""
    stated = any(config.get(field) is not None for field in ("rope_parameters", "rope_scaling", "rope_theta"))
    fields = ConfigFields({**config, **({} if stated else {"rope_parameters": _ROPES})})
    kinds = _kinds(fields)
    of_kind = {kind: _mixer(fields, kind) for kind in dict.fromkeys(kinds)}
    fields.ignore("rope_parameters", "sliding_window", "attention_bias", "use_attention_gate", "conv_L_cache")
    fields.ignore("num_attention_heads", "num_key_value_heads", "head_dim", "conv_bias")  # where no layer has them
    mlp = MlpConfig(fields.integer("intermediate_size"))
    norms: Places = "both" if fields.flag("use_sandwich_norm", True) else "before"
    layers = {kind: LayerConfig(mixer, mlp, norms) for kind, mixer in of_kind.items()}
    norm = NormConfig(fields.number("norm_eps", 1e-5))
    return decoder("lfm3", fields, tuple(layers[kind] for kind in kinds), norm, tie_word_embeddings=True)


def _kinds(fields: ConfigFields) -> list[str]:
    count, kinds = fields.integer("num_hidden_layers"), fields.get("layer_types")
    if kinds is None:
        return [_FULL if n % 4 == 2 else _SLIDING if n % 4 == 0 and n > 0 else _CONV for n in range(count)]
    known = (_CONV, _FULL, _SLIDING)
    if not isinstance(kinds, list) or len(kinds) != count or any(kind not in known for kind in kinds):
        raise fail("layer_types", f"{', '.join(known)} for each of {count} layers", kinds)
    return kinds


def _mixer(fields: ConfigFields, kind: str) -> Mixer:
    if kind == _CONV:
        return ShortConvConfig(fields.integer("conv_L_cache", 7), fields.flag("conv_bias", False))
    bias, gated = fields.flag("attention_bias", False), fields.flag("use_attention_gate", True)
    rope = rope_fields(fields, max_position(fields), kind)
    settings: dict[str, Any] = {"qkv_bias": bias, "o_bias": bias, "qk_norm": "head", "gated": "head" if gated else ""}
    attends = attention(fields, rope, **settings)
    return replace(attends, window=fields.integer("sliding_window", 256)) if kind == _SLIDING else attends


FAMILY = Family(
    "lfm3",
    ("lfm3",),
    lfm3,
    (
        *OF_ALL,
        *renamed({"post_self_attn_layernorm": "post_operator_norm", "post_mlp_layernorm": "post_ffn_norm"}),
        *renamed({"self_attn.gate_proj": "self_attn.g_proj"}),
        *renamed({"self_attn.gate_proj": "self_attn.gate_proj"}),  # as the published files have it
    ),
)
