"""Mistral, Mistral Nemo and Small, Ministral, Ministral 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, LayerConfig, MlpConfig
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
from tinyllm.models.families.ranges import is_number, number_expected

_BETA = "llama_4_scaling_beta"
_ROPE_OF_MINISTRAL3 = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    _BETA: 0.1,
}


def mistral(config: Mapping[str, Any]) -> DecoderConfig:
    """Mistral, whose layers all slide or none does, whose GGUF files call themselves llama's; Ministral, whose
    `layer_types` say which do; Ministral 3, whose queries grow with the logarithm of the position.

    Source: transformers' `MistralConfig`, `MinistralConfig` and `Ministral3Config`.
    """
    if config["model_type"] == "ministral3":
        return _ministral3(config)
    fields = ConfigFields({"sliding_window": 4096, "max_position_embeddings": 131072} | dict(config))
    return _decoder(fields, config["model_type"], attention(fields))


def _ministral3(config: Mapping[str, Any]) -> DecoderConfig:
    """Its rope states what queries grow by, from the original context on."""
    stated = [config[name] for name in ("rope_parameters", "rope_scaling") if config.get(name) is not None]
    rope: Any = stated[0] if stated else _ROPE_OF_MINISTRAL3
    if not isinstance(rope, Mapping):
        raise fail("rope_parameters", "an object", rope)
    beta = rope.get(_BETA)
    if not is_number(_BETA, beta):
        raise fail(f"rope_parameters.{_BETA}", number_expected(_BETA), beta)
    of_all = {name: value for name, value in rope.items() if name not in (_BETA, "max_position_embeddings")}
    fields = ConfigFields({**config, "rope_parameters": of_all, "rope_scaling": None})
    attends = attention(fields)
    if beta and attends.rope is not None:
        period = attends.rope.scaling.original_max_position
        if period is None:
            raise fail("rope_parameters.original_max_position_embeddings", f"an integer beside {_BETA}", period)
        attends = replace(attends, rope=replace(attends.rope, query_log_scale=float(beta), query_log_period=period))
    return _decoder(fields, "ministral3", attends)


def _decoder(fields: ConfigFields, model_type: str, attends: AttentionConfig) -> DecoderConfig:
    fields.only("hidden_act", "silu")
    kind = "full_attention" if fields.get("sliding_window") is None else "sliding_attention"
    kinds = layer_kinds(fields, lambda layer: kind)
    if model_type != "ministral" and set(kinds) != {kind}:
        raise fail("layer_types", f"{kind} alone", kinds)
    attentions = attention_by_kind(fields, attends, kinds)
    mlp = MlpConfig(fields.integer("intermediate_size"))
    layers = {kind: LayerConfig(attends, mlp) for kind, attends in attentions.items()}
    return decoder("mistral", fields, tuple(layers[kind] for kind in kinds))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    config = config_of_gguf(fields, "mistral") | {"sliding_window": None}
    if not fields.get("attention.temperature_scale"):
        return config
    if (rope := config["rope_scaling"]) is None:
        raise fields.fail("rope.scaling.type", "yarn beside attention.temperature_scale", "none")
    beta = fields.number("attention.temperature_scale")
    return config | {"model_type": "ministral3", "rope_scaling": rope | {_BETA: beta}}


FAMILY = Family(
    "mistral",
    ("mistral", "ministral", "ministral3"),
    mistral,
    gguf=GgufForm(("mistral3",), _from_gguf, (*ROTATED_BY_NEIGHBOURS, *GGUF_NAMES)),
)
