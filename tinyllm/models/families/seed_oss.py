"""Seed-OSS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm, attention, decoder, full_attention
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule


def seed_oss(config: Mapping[str, Any]) -> DecoderConfig:
    """Seed-OSS: Llama with biases on q, k and v, and perhaps on what comes out of attention. Source: transformers'
    `SeedOssConfig`."""
    fields = ConfigFields(config)
    fields.only("pretraining_tp", 1)
    fields.only("hidden_act", "silu")
    fields.ignore("residual_dropout")  # of training
    bias, out_bias = fields.flag("attention_bias", True), fields.flag("attention_out_bias", False)
    mlp = MlpConfig(fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    layer = LayerConfig(attention(fields, qkv_bias=bias, o_bias=out_bias), mlp)
    return decoder("seed_oss", fields, (layer,) * full_attention(fields))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return config_of_gguf(fields, "seed_oss") | {
        "attention_bias": fields.has_tensor("attn_q.bias"),
        "attention_out_bias": fields.has_tensor("attn_output.bias"),
        "mlp_bias": fields.biases()["mlp_bias"],
    }


_IN_GGUF = (TensorRule("blk.{layer}.post_attention_norm", (f"{LAYER}post_attention_layernorm",)), *GGUF_NAMES)
FAMILY = Family("seed_oss", ("seed_oss",), seed_oss, gguf=GgufForm(("seed_oss",), _from_gguf, _IN_GGUF))
