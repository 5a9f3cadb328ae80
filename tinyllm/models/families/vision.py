"""The text of models that read pictures as well: their `config.json` has that of a decoder within it, and their files
have tensors besides, which are skipped. Pictures themselves are refused where messages are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families import (
    gemma,
    gemma4,
    glm4,
    glm4_moe,
    lfm2,
    lfm3,
    mistral,
    qwen2,
    qwen3,
    qwen_delta,
    qwen_moe,
)
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.defaults import with_defaults
from tinyllm.models.families.experts import experts_in
from tinyllm.models.families.family import Family, GgufForm
from tinyllm.models.families.gguf_fields import GgufFields

TOWERS = tuple(
    prefix + part
    for prefix in ("", "model.")
    for part in (
        *("visual.", "vision_tower.", "vision_model.", "vision_embedder.", "multi_modal_projector.", "embed_vision."),
        *("audio_tower.", "embed_audio."),
    )
)
# How pictures and sounds become embeddings, and the tokens in whose places these stand.
_OF_PICTURES = (
    "vision_config",
    "audio_config",
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "vision_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "image_start_token_id",
    "image_end_token_id",
    "video_start_token_id",
    "video_end_token_id",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "image_seq_length",
    "downsample_ratio",
    "boi_token_index",
    "eoi_token_index",
    "boi_token_id",
    "eoi_token_id",
    "boa_token_id",
    "eoa_token_id",
    "eoa_token_index",
    "audio_token_id",
    "mm_tokens_per_image",
    "projector_hidden_act",
    "multimodal_projector_bias",
    "spatial_merge_size",
    "downsample_factor",
    "projector_hidden_size",
    "projector_bias",
    "projector_use_layernorm",
)
_OF_BOTH = ("bos_token_id", "eos_token_id")


def text_of(name: str, text: Family, *text_types: str, architecture: str = "") -> Family:
    """The family of a model that reads pictures, of which the decoder alone is loaded.

    Args:
        name: of the family, and its `model_type`.
        text: what the decoder is.
        text_types: what may be the `model_type` of `text_config`; the first is where it has none.
        architecture: of GGUF files, whose pictures are in another file; empty: that of the decoder.
    """
    from_config = _from_config(text, text_types)
    from_config.__doc__ = f"Its text, by the family {text.name}; the tensors for pictures are skipped."
    gguf = _gguf(name, text.gguf, architecture) if text.gguf and architecture else None
    return Family(name, (name,), from_config, text.tensors, gguf, (*TOWERS, *text.skipped))


def _any_of(*families: Family) -> Family:
    """What the `model_type` of a `text_config` says, one of these."""
    by_type = {model_type: family for family in families for model_type in family.model_types}
    rules = tuple(dict.fromkeys(rule for family in families for rule in family.tensors))
    name = " or ".join(family.name for family in families)
    return Family(name, tuple(by_type), lambda config: by_type[config["model_type"]].from_config(config), rules)


def _gguf(name: str, text: GgufForm, architecture: str) -> GgufForm:
    def config(fields: GgufFields) -> dict[str, Any]:
        fields.ignore("rope.dimension_sections", "n_deepstack_layers")  # they speak of pictures
        return text.config(fields) | {"model_type": name}

    return GgufForm((architecture,), config, text.tensors)


def _from_config(text: Family, text_types: tuple[str, ...]) -> Callable[[Mapping[str, Any]], DecoderConfig]:
    def from_config(config: Mapping[str, Any]) -> DecoderConfig:
        kind, inner = _text_config(config, text_types)
        own = kind if kind in text.model_types else text.model_types[0]
        return text.from_config(with_defaults(inner, kind) | {"model_type": own})

    return from_config


def _text_config(config: Mapping[str, Any], text_types: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The decoder's `model_type` and its own config, which older files have without a `text_config`. Refuses what it
    does not say and pictures do not either."""
    fields = ConfigFields(config)
    inner = fields.get("text_config")
    if inner is None:
        return text_types[0], {field: value for field, value in config.items() if field not in _OF_PICTURES}
    if not isinstance(inner, Mapping):
        raise fail("text_config", "an object", inner)
    if (kind := inner.get("model_type", text_types[0])) not in text_types:
        raise fail("text_config.model_type", " or ".join(map(repr, text_types)), kind)
    fields.ignore(*_OF_PICTURES, *(field for field, value in inner.items() if config.get(field) == value))
    inner = with_defaults(inner, kind)
    tied = [source.get("tie_word_embeddings") for source in (fields, inner)]
    tied = [value for value in tied if value is not None]
    both = {field: fields.get(field) for field in _OF_BOTH if fields.get(field) is not None}
    fields.finish()
    return kind, {**inner, **both, **({"tie_word_embeddings": any(tied)} if tied else {})}


_GEMMA3 = next(family for family in gemma.FAMILIES if family.name == "gemma3_text")
_, _QWEN35, _QWEN35_MOE = qwen_delta.FAMILIES
# the published files have all experts in one tensor, transposed; those that transformers writes have not
_QWEN3_MOE = replace(qwen_moe.FAMILIES[0], tensors=experts_in(transposed=None))
FAMILIES = (
    text_of("gemma3", _GEMMA3, "gemma3_text"),
    text_of("gemma4", gemma4.FAMILY, "gemma4_text"),
    text_of("gemma4_unified", gemma4.FAMILY, "gemma4_unified_text"),
    text_of("mistral3", mistral.FAMILY, "mistral", "ministral3"),
    text_of("qwen2_vl", qwen2.FAMILY, "qwen2_vl_text"),
    text_of("qwen2_5_vl", qwen2.FAMILY, "qwen2_5_vl_text", architecture="qwen2vl"),
    text_of("qwen3_vl", qwen3.FAMILY, "qwen3_vl_text", architecture="qwen3vl"),
    text_of("qwen3_vl_moe", _QWEN3_MOE, "qwen3_vl_moe_text", architecture="qwen3vlmoe"),
    text_of("glm4v", glm4.FAMILIES[1], "glm4v_text"),
    text_of("glm4v_moe", glm4_moe.FAMILY, "glm4v_moe_text"),
    text_of("internvl", _any_of(qwen2.FAMILY, qwen3.FAMILY, _QWEN3_MOE), "qwen2", "qwen3", "qwen3_moe"),
    text_of("lfm2_vl", lfm2.FAMILIES[0], "lfm2"),
    text_of("lfm3_vl", lfm3.FAMILY, "lfm3"),
    text_of("qwen3_5", _QWEN35, "qwen3_5_text"),
    text_of("qwen3_5_moe", _QWEN35_MOE, "qwen3_5_moe_text"),
)
