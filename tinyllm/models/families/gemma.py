"""Gemma 1, 2 and 3, for text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tinyllm.models.decoder.config import Activation, AttentionConfig, DecoderConfig, LayerConfig, MlpConfig, NormConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    activation,
    attention,
    attention_by_kind,
    decoder,
    full_attention,
    layer_kinds,
    max_position,
)
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.rope_fields import rope_fields
from tinyllm.models.families.tensor_rules import renamed

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def gemma(config: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 1: embeddings times the root of their size, norms whose weights are stored less 1, GeGLU. Source:
    transformers' `GemmaConfig`."""
    fields = ConfigFields(config)
    layer = LayerConfig(attention(fields, **_biases(fields)), _mlp(fields, "hidden_act"))
    fields.only("hidden_activation", "gelu", "gelu_pytorch_tanh")  # older files have both, and mean the same by both
    return _decoder("gemma", fields, [layer] * full_attention(fields))


def gemma2(config: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 2: norms before and after, caps on scores and logits, a window on every other layer. Source: transformers'
    `Gemma2Config`."""
    fields = ConfigFields(config)
    kinds = layer_kinds(fields, lambda layer: _GLOBAL if layer % 2 else _LOCAL)
    softcap = _softcap(fields, "attn_logit_softcapping", 50.0)
    whole = attention(fields, scale=_scale(fields), softcap=softcap, **_biases(fields))
    return _layered("gemma2", fields, kinds, attention_by_kind(fields, whole, kinds), 30.0)


def gemma3(config: Mapping[str, Any]) -> DecoderConfig:
    """Gemma 3: norms of queries and keys for caps on scores, and a rope of their own for layers with a window, five of
    six. Source: transformers' `Gemma3TextConfig`."""
    fields = ConfigFields(config)
    fields.ignore("_sliding_window_pattern")  # a note of what `layer_types` were made of
    pattern = fields.integer("sliding_window_pattern", 6)
    kinds = layer_kinds(fields, lambda layer: _LOCAL if (layer + 1) % pattern else _GLOBAL)
    settings = {"scale": _scale(fields), "softcap": _softcap(fields, "attn_logit_softcapping", None)} | _biases(fields)
    rope, local = (
        rope_fields(fields, max_position(fields), kind, theta=theta, unscaled=unscaled)
        for kind, theta, unscaled in ((_GLOBAL, 1e6, None), (_LOCAL, 1e4, ("rope_local_base_freq", 1e4)))
    )
    whole, windowed = (attention(fields, stated, qk_norm="head", **settings) for stated in (rope, local))
    return _layered("gemma3_text", fields, kinds, attention_by_kind(fields, whole, kinds, windowed), None)


def _layered(
    name: str,
    fields: ConfigFields,
    kinds: list[str],
    attentions: dict[str, AttentionConfig],
    logit_softcap: float | None,
) -> DecoderConfig:
    fields.ignore("cache_implementation")
    fields.only("hidden_act", "gelu", "gelu_pytorch_tanh")  # files have it beside `hidden_activation`, which counts
    if (size := fields.get("sliding_window_size")) is not None:  # likewise
        fields.only("sliding_window", size)
    mlp = _mlp(fields, "hidden_activation")
    of_kind = {kind: LayerConfig(made, mlp, norms="both") for kind, made in attentions.items()}
    softcap = _softcap(fields, "final_logit_softcapping", logit_softcap)
    return _decoder(name, fields, [of_kind[kind] for kind in kinds], logit_softcap=softcap)


def _decoder(name: str, fields: ConfigFields, layers: list[LayerConfig], **settings: Any) -> DecoderConfig:
    fields.only("use_bidirectional_attention", False)
    return decoder(
        name,
        fields,
        tuple(layers),
        NormConfig(fields.number("rms_norm_eps", 1e-6), offset=1.0),
        embedding_multiplier=fields.integer("hidden_size") ** 0.5,
        tie_word_embeddings=True,
        **settings,
    )


def _mlp(fields: ConfigFields, field: str) -> MlpConfig:
    named: Activation = activation(fields, "gelu_pytorch_tanh", field)
    # Gemma 1's first files say gelu and mean its tanh form
    return MlpConfig(
        fields.integer("intermediate_size"), "gelu_tanh" if named == "gelu" and field == "hidden_act" else named
    )


def _biases(fields: ConfigFields) -> dict[str, Any]:
    return dict.fromkeys(("qkv_bias", "o_bias"), fields.flag("attention_bias", False))


def _scale(fields: ConfigFields) -> float:
    scale: float = fields.number("query_pre_attn_scalar", 256) ** -0.5
    return scale


def _softcap(fields: ConfigFields, field: str, default: float | None) -> float | None:
    """A cap, which a null takes away even where there is one by default."""
    missing = fields.is_null(field) or (default is None and fields.get(field) is None)
    return None if missing else fields.number(field, default)


def _plain_gguf(fields: GgufFields) -> dict[str, Any]:
    return config_of_gguf(fields, "gemma") | {"hidden_act": "gelu_pytorch_tanh"}


def _capped_gguf(fields: GgufFields, model_type: str, layers_of_27b: int, window: int) -> dict[str, Any]:
    """What Gemma 2 and 3 share. A file says nothing of the scale of scores: llama.cpp knows the 27B model, where it is
    not that of the head, by its number of layers. window: of a file that says none; 0: no layer has one."""
    made = config_of_gguf(fields, model_type)
    del made["hidden_act"]
    of_27b = made["num_hidden_layers"] == layers_of_27b
    head = made["hidden_size"] // made["num_attention_heads"] if of_27b else made["head_dim"]
    made["query_pre_attn_scalar"] = fields.number("attention.scale", head**-0.5) ** -2
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    made |= {cap: fields.number(cap) for cap in caps if fields.get(cap) is not None}
    made["sliding_window"] = fields.get("attention.sliding_window", window) or None
    if made["sliding_window"] is None:
        made["layer_types"] = [_GLOBAL] * made["num_hidden_layers"]
    return made


def _gemma2_gguf(fields: GgufFields) -> dict[str, Any]:
    return _capped_gguf(fields, "gemma2", 46, 4096)


def _gemma3_gguf(fields: GgufFields) -> dict[str, Any]:
    made = _capped_gguf(fields, "gemma3_text", 62, 0)
    made["rope_theta"] = fields.number("rope.freq_base", 1e6)
    made["rope_local_base_freq"] = fields.number("rope.freq_base_swa", 1e4)
    pattern = fields.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):  # for each layer whether it has a window
        made["layer_types"] = [_LOCAL if windowed else _GLOBAL for windowed in pattern]
    elif pattern is not None:
        made["sliding_window_pattern"] = pattern
    return made


# The norms of GGUF files have the 1 added.
_GGUF_RULES = tuple(replace(rule, offset=-1.0) if "norm" in rule.tensor else rule for rule in GGUF_NAMES)
POST_NORMS = renamed(
    {
        "post_self_attn_layernorm": "post_attention_layernorm",
        "post_attention_layernorm": "pre_feedforward_layernorm",
        "post_mlp_layernorm": "post_feedforward_layernorm",
    }
)
"""The names of norms in folders since Gemma 2."""
FAMILIES = (
    Family("gemma", ("gemma",), gemma, gguf=GgufForm(("gemma",), _plain_gguf, _GGUF_RULES)),
    Family("gemma2", ("gemma2",), gemma2, POST_NORMS, GgufForm(("gemma2",), _gemma2_gguf, _GGUF_RULES)),
    Family("gemma3_text", ("gemma3_text",), gemma3, POST_NORMS, GgufForm(("gemma3",), _gemma3_gguf, _GGUF_RULES)),
)
