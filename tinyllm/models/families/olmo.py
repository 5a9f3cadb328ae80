"""OLMo 2 and 3, and OLMoE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.experts import experts_alone_of_gguf, experts_in, routed_experts
from tinyllm.models.families.family import (
    Family,
    GgufForm,
    attention,
    attention_by_kind,
    decoder,
    full_attention,
    layer_kinds,
    max_position,
    plain_gguf,
)
from tinyllm.models.families.gguf_config import config_of_gguf, windows_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.rope_fields import RopeFields, rope_fields
from tinyllm.models.families.tensor_rules import renamed

_DEFAULTS = {"rms_norm_eps": 1e-5}
_THETA = 500000.0


def olmo2(config: Mapping[str, Any]) -> DecoderConfig:
    """OLMo 2: norms after attention and the feed-forward layer alone, and of all queries and of all keys at once.
    Source: transformers' `Olmo2Config`."""
    fields = ConfigFields(_DEFAULTS | dict(config))
    return _decoder("olmo2", fields, [_attention(fields)] * full_attention(fields))


def olmo3(config: Mapping[str, Any]) -> DecoderConfig:
    """OLMo 3: three of four layers slide, and rope is stretched in the others alone; its GGUF files call themselves
    olmo2's. Source: transformers' `Olmo3Config`."""
    fields = ConfigFields({"sliding_window": 4096} | _DEFAULTS | dict(config))
    kinds = layer_kinds(fields, lambda layer: "sliding_attention" if (layer + 1) % 4 else "full_attention")
    rope, local = (
        rope_fields(fields, max_position(fields), kind, theta=_THETA, unscaled=unscaled)
        for kind, unscaled in (("full_attention", None), ("sliding_attention", ("rope_theta", _THETA)))
    )
    by_kind = attention_by_kind(fields, _attention(fields, rope), kinds, _attention(fields, local))
    return _decoder("olmo3", fields, [by_kind[kind] for kind in kinds])


def olmoe(config: Mapping[str, Any]) -> DecoderConfig:
    """OLMoE: experts in every layer, and norms of all queries and of all keys at once. Source: transformers'
    `OlmoeConfig`."""
    fields = ConfigFields(_DEFAULTS | {"max_position_embeddings": 4096} | dict(config))
    fields.only("hidden_act", "silu")
    normalize = fields.flag("norm_topk_prob", False)
    experts = routed_experts(fields, fields.integer("intermediate_size"), normalize=normalize)
    return decoder("olmoe", fields, (LayerConfig(_attention(fields), experts),) * full_attention(fields))


def _attention(fields: ConfigFields, rope: RopeFields | None = None) -> AttentionConfig:
    if rope is not None and rope.share != 1:
        raise fail("partial_rotary_factor", "1", rope.share)
    bias = fields.flag("attention_bias", False)
    return attention(fields, rope, qkv_bias=bias, o_bias=bias, qk_norm="whole")


def _decoder(family: str, fields: ConfigFields, attentions: list[AttentionConfig]) -> DecoderConfig:
    fields.only("hidden_act", "silu")
    mlp = MlpConfig(fields.integer("intermediate_size"))
    return decoder(family, fields, tuple(LayerConfig(attends, mlp, norms="after") for attends in attentions))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """OLMo 3's files call themselves those of OLMo 2, and have a window."""
    windows = windows_of_gguf(fields, pattern=4)
    config = config_of_gguf(fields, "olmo2") | {"attention_bias": fields.biases()["attention_bias"]}
    if windows["sliding_window"] is None:
        return config
    theta, scaling = config.pop("rope_theta"), config.pop("rope_scaling") or {}
    if scaling and fields.get("rope.scaling.attn_factor") is not None:
        # older files have Hugging Face's factor here, where other architectures have what YaRN's is multiplied by
        scaling["attention_factor"] = fields.number("rope.scaling.attn_factor")
    ropes = {
        "full_attention": scaling | {"rope_theta": theta},
        "sliding_attention": {"rope_theta": fields.number("rope.freq_base_swa", theta)},
    }
    return config | windows | {"model_type": "olmo3", "rope_parameters": ropes}


def _experts_from_gguf(fields: GgufFields) -> dict[str, Any]:
    return config_of_gguf(fields, "olmoe") | experts_alone_of_gguf(fields)


NORMS_AFTER = renamed(
    {
        "post_self_attn_layernorm": "post_attention_layernorm",
        "post_mlp_layernorm": "post_feedforward_layernorm",
    }
)
"""Names in folders of norms after attention and the feed-forward layer, where none come before."""
FAMILIES = (
    Family("olmo2", ("olmo2",), olmo2, NORMS_AFTER, GgufForm(("olmo2",), _from_gguf)),
    Family("olmo3", ("olmo3",), olmo3, NORMS_AFTER, GgufForm((), plain_gguf("olmo3"))),
    Family("olmoe", ("olmoe",), olmoe, experts_in(), GgufForm(("olmoe",), _experts_from_gguf)),
)
