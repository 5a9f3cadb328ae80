"""The families of the core, and the choice among them and those of plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinyllm.errors import CheckpointError, PluginError, TinyllmError, plugin_code, quoted
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families import (
    cohere2,
    gemma,
    gemma4,
    glm4,
    glm4_moe,
    gpt_oss,
    granite,
    lfm2,
    llama,
    mistral,
    mixtral,
    olmo,
    phi3,
    qwen2,
    qwen3,
    qwen_delta,
    qwen_moe,
    smollm3,
    starcoder2,
    vision,
)
from tinyllm.models.families.defaults import with_defaults
from tinyllm.models.families.family import Family

FAMILIES = (
    llama.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    smollm3.FAMILY,
    *olmo.FAMILIES,
    starcoder2.FAMILY,
    cohere2.FAMILY,
    *qwen_moe.FAMILIES,
    *qwen_delta.FAMILIES,
    *gemma.FAMILIES,
    gemma4.FAMILY,
    *glm4.FAMILIES,
    glm4_moe.FAMILY,
    *granite.FAMILIES,
    gpt_oss.FAMILY,
    phi3.FAMILY,
    *lfm2.FAMILIES,
    *vision.FAMILIES,
)


_NOT_HERE = {
    "kv_lora_rank": "multi-head latent attention",
    "attention_chunk_size": "attention within chunks",
    "state_size": "state-space layers",
    "mamba_d_state": "state-space layers",
    "ssm_state_size": "state-space layers",
}
"""Fields of models of no family here, and what stands in the way of having one."""


def in_the_way(config: Mapping[str, Any]) -> str:
    """Which parts of a model tinyllm has no means for, as the end of a message; empty where none is known of."""
    inner = config.get("text_config")
    names = {*config, *(inner if isinstance(inner, Mapping) else ())}
    parts = [f"{field} ({part})" for field, part in _NOT_HERE.items() if field in names]
    return f"; the decoder has no means for its {' and '.join(parts)}" if parts else ""


def family_of(config: Mapping[str, Any], families: Sequence[Family] = FAMILIES) -> Family:
    """The family that the `model_type` of a `config.json` names. Raises `CheckpointError` where there is none."""
    model_type = config.get("model_type")
    for family in families:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted({name for family in families for name in family.model_types}))
    raise CheckpointError(
        f"config: model_type: expected one of {known}, got {quoted(model_type)}{in_the_way(config)}; a plugin may add "
        f"a family (hook tinyllm_families)"
    )


def decoder_config(config: Mapping[str, Any], families: Sequence[Family] = FAMILIES) -> DecoderConfig:
    """The `DecoderConfig` of a `config.json`, by the family that its `model_type` names.

    Raises `CheckpointError` for a model type of no family, and for fields that the family does not understand;
    `PluginError` for a plugin's family that fails in another way.
    """
    family = family_of(config, families)
    where = f"family {family.name!r}: from_config"
    with plugin_code(where, passing=(TinyllmError,)):
        decoder = family.from_config(with_defaults(config, config.get("model_type")))
    if not isinstance(decoder, DecoderConfig):
        raise PluginError(f"{where}: expected a DecoderConfig, got {decoder!r}")
    return decoder
