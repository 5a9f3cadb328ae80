"""EXAONE 4.0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import Family, GgufForm, attention, attention_by_kind, decoder, layer_kinds
from tinyllm.models.families.gguf_config import config_of_gguf, windows_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.olmo import NORMS_AFTER


def exaone4(config: Mapping[str, Any]) -> DecoderConfig:
    """EXAONE 4.0: norms after attention and the feed-forward layer alone, and of each head's queries and keys; where
    three of four layers slide, the others rotate nothing. Source: transformers' `Exaone4Config`."""
    fields = ConfigFields({"sliding_window": 4096} | dict(config))
    fields.only("hidden_act", "silu")
    rotated = attention(fields, qk_norm="head")
    slides, pattern = fields.get("sliding_window") is not None, 1
    fields.ignore("sliding_window_pattern")  # a note of what `layer_types` were made of, where they are there
    if slides and fields.get("layer_types") is None:
        pattern = fields.integer("sliding_window_pattern", 4)
    kinds = layer_kinds(fields, lambda layer: "sliding_attention" if (layer + 1) % pattern else "full_attention")
    by_kind = attention_by_kind(fields, replace(rotated, rope=None) if slides else rotated, kinds, rotated)
    mlp = MlpConfig(fields.integer("intermediate_size"))
    layers = {kind: LayerConfig(attends, mlp, norms="after") for kind, attends in by_kind.items()}
    return decoder("exaone4", fields, tuple(layers[kind] for kind in kinds))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return config_of_gguf(fields, "exaone4") | windows_of_gguf(fields, pattern=4)


FAMILY = Family("exaone4", ("exaone4",), exaone4, NORMS_AFTER, GgufForm(("exaone4",), _from_gguf))
