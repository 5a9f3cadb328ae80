"""Mistral, Mistral Nemo and Small, Ministral."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    attention,
    attention_by_kind,
    decoder,
    layer_kinds,
    plain_gguf,
)
from tinyllm.models.families.llama import ROTATED_BY_NEIGHBOURS


def mistral(config: Mapping[str, Any]) -> DecoderConfig:
    """Mistral, whose layers all slide or none does, and Ministral, whose `layer_types` say which do; their GGUF files
    call themselves llama's.

    Source: transformers' `MistralConfig` and `MinistralConfig`.
    """
    fields = ConfigFields({"sliding_window": 4096, "max_position_embeddings": 131072} | dict(config))
    fields.only("hidden_act", "silu")
    kind = "full_attention" if fields.get("sliding_window") is None else "sliding_attention"
    kinds = layer_kinds(fields, lambda layer: kind)
    if config["model_type"] == "mistral" and set(kinds) != {kind}:
        raise fail("layer_types", f"{kind} alone", kinds)
    attentions = attention_by_kind(fields, attention(fields), kinds)
    mlp = MlpConfig(fields.integer("intermediate_size"))
    layers = {kind: LayerConfig(attends, mlp) for kind, attends in attentions.items()}
    return decoder("mistral", fields, tuple(layers[kind] for kind in kinds))


FAMILY = Family(
    "mistral",
    ("mistral", "ministral"),
    mistral,
    gguf=GgufForm((), plain_gguf("mistral"), (*ROTATED_BY_NEIGHBOURS, *GGUF_NAMES)),
)
