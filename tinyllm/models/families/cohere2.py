"""Cohere: Command R; Cohere2: Command R7B and Command A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig, NormConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import (
    Family,
    GgufForm,
    attention,
    attention_by_kind,
    decoder,
    full_attention,
    layer_kinds,
)
from tinyllm.models.families.gguf_config import config_of_gguf, windows_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields

# What older files say of all models of this kind.
_FIXED = {
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1,
    "order_of_interleaved_layers": "local_attn_first",
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_qk_norm": False,
}


def cohere(config: Mapping[str, Any]) -> DecoderConfig:
    """Cohere: one norm for attention and the feed-forward layer, both added to the residual; rotated by neighbours.
    Source: transformers' `CohereConfig`."""
    fields = ConfigFields({"max_position_embeddings": 8192} | dict(config))
    fields.only("use_qk_norm", False)
    fields.only("hidden_act", "silu")
    bias = fields.flag("attention_bias", False)
    attends = attention(fields, traditional=True, theta=500000.0, qkv_bias=bias, o_bias=bias)
    layer = LayerConfig(attends, MlpConfig(fields.integer("intermediate_size")), parallel=True)
    return _decoder("cohere", fields, (layer,) * full_attention(fields))


def cohere2(config: Mapping[str, Any]) -> DecoderConfig:
    """Cohere2: one norm for attention and the feed-forward layer, both added to the residual; three of four layers
    slide and rotate by neighbours, the others rotate nothing. Source: transformers' `Cohere2Config`."""
    fields = ConfigFields({"sliding_window": 4096, "max_position_embeddings": 8192} | dict(config))
    fields.only("hidden_act", "silu")
    for field, value in _FIXED.items():
        fields.only(field, value)
    fields.ignore("cache_implementation", "use_parallel_embedding")  # how the model is run
    fields.ignore("_sliding_window_pattern")  # a note of what `layer_types` were made of
    pattern = fields.integer("sliding_window_pattern", 4)
    fields.only("layer_switch", pattern)
    kinds = layer_kinds(fields, lambda layer: "sliding_attention" if (layer + 1) % pattern else "full_attention")
    bias = fields.flag("attention_bias", False)
    rotated = attention(fields, traditional=True, qkv_bias=bias, o_bias=bias)
    mlp = MlpConfig(fields.integer("intermediate_size"))
    layers = {
        kind: LayerConfig(attends, mlp, parallel=True)
        for kind, attends in attention_by_kind(fields, replace(rotated, rope=None), kinds, rotated).items()
    }
    return _decoder("cohere2", fields, tuple(layers[kind] for kind in kinds))


def _decoder(name: str, fields: ConfigFields, layers: tuple[LayerConfig, ...]) -> DecoderConfig:
    return decoder(
        name,
        fields,
        layers,
        NormConfig(fields.number("layer_norm_eps", 1e-5), "layer"),
        logit_multiplier=fields.number("logit_scale", 0.0625),
        tie_word_embeddings=True,
    )


def _of_gguf(fields: GgufFields, model_type: str) -> dict[str, Any]:
    return {
        **config_of_gguf(fields, model_type, eps="layer_norm_eps"),
        "logit_scale": fields.number("logit_scale"),
        "attention_bias": fields.biases()["attention_bias"],
    }


FAMILIES = (
    Family("cohere", ("cohere",), cohere, gguf=GgufForm(("command-r",), lambda fields: _of_gguf(fields, "cohere"))),
    Family(
        "cohere2",
        ("cohere2",),
        cohere2,
        gguf=GgufForm(("cohere2",), lambda fields: _of_gguf(fields, "cohere2") | windows_of_gguf(fields, pattern=4)),
    ),
)
