"""Hunyuan's dense models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.family import Family, GgufForm, attention, decoder, full_attention
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.ranges import is_number, number_expected
from tinyllm.models.families.tensor_rules import renamed

_OF_YARN = {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
_WITH_ALPHA = {"rope_type", "type", "rope_theta", "alpha"} | _OF_YARN
"""Settings of a rope with an alpha, of which theta and alpha alone are read."""


def hunyuan_v1_dense(config: Mapping[str, Any]) -> DecoderConfig:
    """Hunyuan's dense models, which norm each head's queries and keys after they are rotated. Source: transformers'
    `HunYuanDenseV1Config`."""
    fields = ConfigFields(_with_theta(config))
    fields.only("hidden_act", "silu")
    fields.only("pretraining_tp", 1)
    for field, value in (("use_qk_norm", True), ("use_cla", False), ("norm_type", "rms"), ("mlp_bias", False)):
        fields.only(field, value)
    fields.only("attention_head_dim", fields.get("head_dim"))
    fields.ignore("eod_token_id", "org_vocab_size", "cla_share_factor")
    bias = fields.flag("attention_bias", False)
    attends = attention(fields, qkv_bias=bias, o_bias=bias, qk_norm="rotated")
    layer = LayerConfig(attends, MlpConfig(fields.integer("intermediate_size")))
    return decoder("hunyuan_v1_dense", fields, (layer,) * full_attention(fields))


def _with_theta(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with a theta in place of an alpha: `theta alpha^(dim / (dim - 2))`, whatever the length."""
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    rope = config.get(name)
    if not isinstance(rope, Mapping) or not rope.get("alpha"):
        return dict(config)
    kinds = {rope.get("rope_type"), rope.get("type")} - {None, "dynamic"}
    if kinds or not rope.keys() <= _WITH_ALPHA:
        raise fail(f"{name}.alpha", "none but for type dynamic, and beside no other settings", dict(rope))
    alpha, dim = rope["alpha"], config.get("head_dim")
    theta = rope.get("rope_theta", config.get("rope_theta") or 10000.0)
    for field, value in (("alpha", alpha), ("rope_theta", theta)):
        if not is_number(field, value):
            raise fail(f"{name}.{field}", number_expected(field), value)
    if type(dim) is not int or dim <= 2:
        raise fail("head_dim", "an integer above 2 beside alpha", dim)
    stretched = {"rope_theta": theta * alpha ** (dim / (dim - 2))}
    return {**config, "rope_scaling": None, "rope_theta": None, "rope_parameters": stretched}


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """The theta of a file has alpha in it."""
    return config_of_gguf(fields, "hunyuan_v1_dense") | {"attention_bias": fields.biases()["attention_bias"]}


FAMILY = Family(
    "hunyuan_v1_dense",
    ("hunyuan_v1_dense",),
    hunyuan_v1_dense,
    renamed({"self_attn.q_norm": "self_attn.query_layernorm", "self_attn.k_norm": "self_attn.key_layernorm"}),
    GgufForm(("hunyuan-dense",), _from_gguf),
)
