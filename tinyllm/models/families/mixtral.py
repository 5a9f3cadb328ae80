"""Mixtral."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.experts import GGUF_SINGLE_EXPERTS, experts_in, routed_experts
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    attention,
    attention_by_kind,
    decoder,
    full_attention,
    plain_gguf,
)
from tinyllm.models.families.llama import ROTATED_BY_NEIGHBOURS
from tinyllm.models.families.tensor_rules import renamed


def mixtral(config: Mapping[str, Any]) -> DecoderConfig:
    """Mixtral: Mistral with experts, whose layers all slide or none does; its GGUF files call themselves llama's. Of
    the first of them, which have a tensor for each expert, a layer's experts of several quantizations become floats.

    Source: transformers' `MixtralConfig`."""
    fields = ConfigFields(config)
    fields.only("hidden_act", "silu")
    kind = "full_attention" if fields.get("sliding_window") is None else "sliding_attention"
    attends = attention_by_kind(fields, attention(fields, theta=1e6), [kind])[kind]
    layer = LayerConfig(attends, routed_experts(fields, fields.integer("intermediate_size"), normalize=True))
    return decoder("mixtral", fields, (layer,) * full_attention(fields))


FAMILY = Family(
    "mixtral",
    ("mixtral",),
    mixtral,
    (*renamed({"mlp.gate": "block_sparse_moe.gate"}), *experts_in("block_sparse_moe", ("w1", "w3", "w2"))),
    GgufForm((), plain_gguf("mixtral"), (*ROTATED_BY_NEIGHBOURS, *GGUF_NAMES, *GGUF_SINGLE_EXPERTS)),
)
