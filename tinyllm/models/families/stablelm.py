"""StableLM."""

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


def stablelm(config: Mapping[str, Any]) -> DecoderConfig:
    """StableLM: layer norms with biases, a quarter of each head rotated. Source: transformers' `StableLmConfig`."""
    fields = ConfigFields(config)
    fields.only("qk_layernorm", False)  # it has a weight for each number of each head
    fields.ignore("hidden_dropout")  # of training
    rope = rope_fields(fields, max_position(fields), share=0.25)
    attends = attention(fields, rope, qkv_bias=fields.flag("use_qkv_bias", False))
    mlp = MlpConfig(fields.integer("intermediate_size"), activation(fields))
    layer = LayerConfig(attends, mlp, parallel=fields.flag("use_parallel_residual", False))
    norm = NormConfig(fields.number("layer_norm_eps", 1e-5), "layer", bias=True)
    return decoder("stablelm", fields, (layer,) * full_attention(fields), norm)


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return (
        {"partial_rotary_factor": 1.0}
        | config_of_gguf(fields, "stablelm", eps="layer_norm_eps")
        | {
            "use_qkv_bias": fields.has_tensor("attn_q.bias"),
            "use_parallel_residual": fields.get("use_parallel_residual", False),
        }
    )


FAMILY = Family("stablelm", ("stablelm",), stablelm, gguf=GgufForm(("stablelm",), _from_gguf))
