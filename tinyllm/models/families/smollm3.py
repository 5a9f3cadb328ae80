"""SmolLM3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
)
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.llama import ROTATED_BY_NEIGHBOURS


def smollm3(config: Mapping[str, Any]) -> DecoderConfig:
    """SmolLM3, some of whose layers rotate nothing. Source: transformers' `SmolLM3Config`."""
    fields = ConfigFields({"max_position_embeddings": 32768} | dict(config))
    fields.only("hidden_act", "silu")
    bias = fields.flag("attention_bias", False)
    mlp = MlpConfig(fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    rotated = _rotated_layers(fields)
    slides = fields.flag("use_sliding_window", False) and fields.get("sliding_window") is not None
    kinds = layer_kinds(
        fields, lambda layer: "sliding_attention" if slides and not rotated[layer] else "full_attention"
    )
    if not slides and "sliding_attention" in kinds:
        raise fail("layer_types", "full_attention alone where use_sliding_window is false", kinds)
    by_kind = attention_by_kind(fields, attention(fields, theta=2e6, qkv_bias=bias, o_bias=bias), kinds)
    layers = {
        (kind, turns): LayerConfig(attends if turns else replace(attends, rope=None), mlp)
        for kind, attends in by_kind.items()
        for turns in (True, False)
    }
    made = tuple(layers[each] for each in zip(kinds, rotated, strict=True))
    return decoder("smollm3", fields, made, tie_word_embeddings=True)


def _rotated_layers(fields: ConfigFields) -> list[bool]:
    """Whether each layer rotates: what `no_rope_layers` says with 1 where it does, else all but every so manieth."""
    count, interval = fields.integer("num_hidden_layers"), fields.integer("no_rope_layer_interval", 4)
    stated = fields.get("no_rope_layers")
    if stated is None:
        return [(layer + 1) % interval != 0 for layer in range(count)]
    if not isinstance(stated, list) or len(stated) < count or any(rotates not in (0, 1) for rotates in stated):
        raise fail("no_rope_layers", f"1 or 0 for each of {count} layers", stated)
    return [bool(rotates) for rotates in stated[:count]]


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """Files do not say which layers rotate: all but every fourth, as llama.cpp has it."""
    return config_of_gguf(fields, "smollm3") | fields.biases()


FAMILY = Family(
    "smollm3",
    ("smollm3",),
    smollm3,
    gguf=GgufForm(("smollm3",), _from_gguf, (*ROTATED_BY_NEIGHBOURS, *GGUF_NAMES)),
)
