"""StarCoder2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig, NormConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import Family, GgufForm, activation, attention, decoder, full_attention
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import renamed


def starcoder2(config: Mapping[str, Any]) -> DecoderConfig:
    """StarCoder2: layer norms with biases, a feed-forward layer without a gate, a window on all layers. Source:
    transformers' `Starcoder2Config`."""
    fields = ConfigFields({"max_position_embeddings": 4096} | dict(config))
    # transformers reads none of these, which configs of its first form have: others stand in their place
    fields.ignore("activation_function", "layer_norm_epsilon", "residual_dropout", "embedding_dropout")
    fields.only("mlp_type", "default")
    fields.only("norm_type", "layer_norm")
    fields.only("scale_attn_weights", True)
    bias = fields.flag("use_bias", True)
    attends = attention(fields, qkv_bias=bias, o_bias=bias)
    if fields.get("sliding_window") is not None:
        attends = replace(attends, window=fields.integer("sliding_window"))
    size, named = fields.integer("intermediate_size"), activation(fields, "gelu_pytorch_tanh")
    layer = LayerConfig(attends, MlpConfig(size, named, bias, gated=False))
    norm = NormConfig(fields.number("norm_epsilon", 1e-5), "layer", bias=True)
    return decoder("starcoder2", fields, (layer,) * full_attention(fields), norm, tie_word_embeddings=True)


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """gelu is that by tanh in llama.cpp."""
    return config_of_gguf(fields, "starcoder2", eps="norm_epsilon") | {
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": any(fields.biases().values()),
        "sliding_window": fields.get("attention.sliding_window") or None,
    }


FAMILY = Family(
    "starcoder2",
    ("starcoder2",),
    starcoder2,
    renamed({"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}),
    GgufForm(("starcoder2",), _from_gguf),
)
