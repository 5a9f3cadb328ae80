"""Phi-1 to Phi-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig, NormConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import (
    Family,
    GgufForm,
    activation,
    attention,
    decoder,
    full_attention,
    max_position,
)
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.rope_fields import rope_fields
from tinyllm.models.families.tensor_rules import TensorRule, renamed


def phi(config: Mapping[str, Any]) -> DecoderConfig:
    """Phi-1 to Phi-2: one norm for attention and a feed-forward layer without a gate, both added to the residual;
    biases throughout, and half of each head rotated. Source: transformers' `PhiConfig`."""
    fields = ConfigFields(config)
    rope = rope_fields(fields, max_position(fields), share=0.5)
    qk_norm = "head" if fields.flag("qk_layernorm", False) else ""
    attends = attention(fields, rope, qkv_bias=True, o_bias=True, qk_norm=qk_norm)
    mlp = MlpConfig(fields.integer("intermediate_size"), activation(fields, "gelu_new"), bias=True, gated=False)
    layers = (LayerConfig(attends, mlp, parallel=True),) * full_attention(fields)
    norm = NormConfig(fields.number("layer_norm_eps", 1e-5), "layer", bias=True)
    return decoder("phi", fields, layers, norm, head_bias=True)


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    own = config_of_gguf(fields, "phi", eps="layer_norm_eps") | {"hidden_act": "gelu_new"}
    return {"partial_rotary_factor": 1.0} | own


FAMILY = Family(
    "phi",
    ("phi",),
    phi,
    (
        TensorRule("model.final_layernorm", ("model.norm",)),
        *renamed(
            {
                "self_attn.o_proj": "self_attn.dense",
                "self_attn.q_norm": "self_attn.q_layernorm",
                "self_attn.k_norm": "self_attn.k_layernorm",
                "mlp.up_proj": "mlp.fc1",
                "mlp.down_proj": "mlp.fc2",
            }
        ),
    ),
    GgufForm(("phi2",), _from_gguf),
)
