"""GLM-4: `glm` of 2024, `glm4` of 2025 with norms after attention and the feed-forward layer as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
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
from tinyllm.models.families.tensor_rules import GGUF_MERGED_GATE_UP, GGUF_MERGED_QKV, MERGED_GATE_UP


def glm(config: Mapping[str, Any]) -> DecoderConfig:
    """GLM-4: the first half of each head is rotated, by neighbours; glm4 has norms after layers as well. Source:
    transformers' `GlmConfig` and `Glm4Config`."""
    fields = ConfigFields(config)
    model_type = fields.get("model_type")
    fields.only("hidden_act", "silu")
    rope = rope_fields(fields, max_position(fields), share=0.5)
    layer = LayerConfig(
        attention(fields, rope, traditional=True, qkv_bias=fields.flag("attention_bias", True)),
        MlpConfig(fields.integer("intermediate_size")),
        norms="both" if model_type == "glm4" else "before",
    )
    return decoder(model_type, fields, (layer,) * full_attention(fields))


def _gguf(architecture: str, model_type: str) -> GgufForm:
    def config(fields: GgufFields) -> dict[str, Any]:
        biased = fields.has_tensor("attn_q.bias") or fields.has_tensor("attn_qkv.bias")
        return {"partial_rotary_factor": 1} | config_of_gguf(fields, model_type) | {"attention_bias": biased}

    return GgufForm((architecture,), config, (GGUF_MERGED_QKV, GGUF_MERGED_GATE_UP, *GGUF_NAMES))


FAMILIES = (
    Family("glm", ("glm",), glm, (MERGED_GATE_UP,), _gguf("chatglm", "glm")),
    Family("glm4", ("glm4",), glm, (MERGED_GATE_UP,), _gguf("glm4", "glm4")),
)
