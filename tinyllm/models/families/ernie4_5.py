"""ERNIE 4.5, dense ones and those with experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import AttentionConfig, DecoderConfig, LayerConfig, MlpConfig, MoeConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.experts import (
    CORRECTION_BIAS,
    GGUF_CORRECTION_BIAS,
    GGUF_SHARED_EXPERT,
    SHARED_EXPERTS,
    experts_in,
    experts_of_gguf,
)
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm, attention, decoder, full_attention
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule


def ernie4_5(config: Mapping[str, Any]) -> DecoderConfig:
    """ERNIE 4.5: Llama that rotates by neighbours. Source: transformers' `Ernie4_5Config`."""
    fields = ConfigFields(config)
    layer = LayerConfig(_attention(fields), _mlp(fields))
    return _decoder("ernie4_5", fields, [layer] * full_attention(fields))


def ernie4_5_moe(config: Mapping[str, Any]) -> DecoderConfig:
    """ERNIE 4.5 with experts, chosen with a bias, and one that every token goes through, in all but the first layers.

    Source: transformers' `Ernie4_5_MoeConfig`."""
    fields = ConfigFields(config)
    for field, value in (("moe_norm_min", 1e-12), ("moe_gate", "topk"), ("moe_use_aux_free", True)):
        fields.only(field, value)
    fields.only("use_bias", False)
    fields.ignore("moe_capacity", "output_router_logits", "router_aux_loss_coef")  # of training
    attends, dense, sparse = _attention(fields), _mlp(fields), _experts(fields)
    count, step = full_attention(fields), fields.integer("moe_layer_interval", 1)
    first, last = fields.get("moe_layer_start_index", 1), fields.get("moe_layer_end_index", -1)
    for field, number, least in (("moe_layer_start_index", first, 0), ("moe_layer_end_index", last, -1)):
        if type(number) is not int or number < least:
            raise fail(field, f"an integer of at least {least}", number)
    last = count - 1 if last == -1 else last
    fed = [sparse if first <= n <= last and (n + 1) % step == 0 else dense for n in range(count)]
    return _decoder("ernie4_5_moe", fields, [LayerConfig(attends, each) for each in fed])


def _experts(fields: ConfigFields) -> MoeConfig:
    experts, chosen = fields.integer("moe_num_experts", 64), fields.integer("moe_k", 6)
    if chosen > experts:
        raise fail("moe_k", f"at most the {experts} experts", chosen)
    size = fields.integer("moe_intermediate_size", 1536)
    shared = 0 if fields.get("moe_num_shared_experts") == 0 else fields.integer("moe_num_shared_experts", 2)
    return MoeConfig(size, experts, chosen, correction_bias=True, shared_size=size * shared)


def _attention(fields: ConfigFields) -> AttentionConfig:
    bias = fields.flag("use_bias", False)
    return attention(fields, traditional=True, theta=500000.0, qkv_bias=bias, o_bias=bias)


def _mlp(fields: ConfigFields) -> MlpConfig:
    fields.only("hidden_act", "silu")
    return MlpConfig(fields.integer("intermediate_size"), bias=fields.flag("use_bias", False))


def _decoder(name: str, fields: ConfigFields, layers: list[LayerConfig]) -> DecoderConfig:
    return decoder(name, fields, tuple(layers), tie_word_embeddings=True)


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return config_of_gguf(fields, "ernie4_5") | {"use_bias": fields.biases()["attention_bias"]}


def _moe_from_gguf(fields: GgufFields) -> dict[str, Any]:
    """The size of the shared expert is stated as well: it is that of as many experts as there are shared ones."""
    made = config_of_gguf(fields, "ernie4_5_moe") | experts_of_gguf(fields)
    fields.ignore("expert_shared_feed_forward_length")
    return made | {
        "moe_num_experts": made.pop("num_experts"),
        "moe_k": made.pop("num_experts_per_tok"),
        "moe_num_shared_experts": fields.get("expert_shared_count", 0),
        "moe_layer_start_index": fields.get("leading_dense_block_count", 0),
        "moe_layer_interval": fields.integer("interleave_moe_layer_step", 1),
    }


_IN_FOLDERS = (
    TensorRule(f"{LAYER}mlp.moe_statics.e_score_correction_bias", (CORRECTION_BIAS,), squeezed=True),
    *SHARED_EXPERTS,
    *experts_in(),
)
_IN_GGUF = (GGUF_CORRECTION_BIAS, *GGUF_SHARED_EXPERT, *GGUF_NAMES)
FAMILIES = (
    Family("ernie4_5", ("ernie4_5",), ernie4_5, gguf=GgufForm(("ernie4_5",), _from_gguf)),
    Family(
        "ernie4_5_moe",
        ("ernie4_5_moe",),
        ernie4_5_moe,
        _IN_FOLDERS,
        GgufForm(("ernie4_5-moe",), _moe_from_gguf, _IN_GGUF),
    ),
)
