"""LFM2: short convolutions, with attention between; dense, and with experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, Mixer, MlpConfig, NormConfig, ShortConvConfig
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.experts import (
    CORRECTION_BIAS,
    GGUF_CORRECTION_BIAS,
    experts_in,
    first_dense,
    sigmoid_experts,
    sigmoid_experts_of_gguf,
)
from tinyllm.models.families.family import GGUF_NAMES, Family, GgufForm, attention, decoder
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule, renamed

_CONV, _FULL = "conv", "full_attention"


def lfm2(config: Mapping[str, Any]) -> DecoderConfig:
    """LFM2: short convolutions between gates, with attention in some layers. Source: transformers' `Lfm2Config`."""
    fields = ConfigFields({"max_position_embeddings": 128_000} | dict(config))
    fields.ignore("full_attn_idxs", "block_dim", "block_mlp_init_scale", "block_out_init_scale", "block_use_swiglu")
    fields.ignore("block_use_xavier_init", "block_norm_eps", "conv_dim", "conv_dim_out", "conv_use_xavier_init")
    fields.ignore("num_heads", "theta", "use_pos_enc")
    mlp = MlpConfig(_inner_size(fields))
    layers = tuple(LayerConfig(mixer, mlp) for mixer in _mixers(fields, _kinds(fields, config)))
    return _decoder("lfm2", fields, layers)


def lfm2_moe(config: Mapping[str, Any]) -> DecoderConfig:
    """LFM2 with experts by sigmoids, chosen with a bias, in all but the first layers. Source: transformers'
    `Lfm2MoeConfig`, which adds 1e-6 to the sum that weights are divided by, where `moe_router` adds less."""
    fields = ConfigFields({"max_position_embeddings": 128_000} | dict(config))
    dense = MlpConfig(fields.integer("intermediate_size"))
    sparse = sigmoid_experts(fields, correction_bias=fields.flag("use_expert_bias", True))
    fed = first_dense(fields, "num_dense_layers", 2, dense, sparse)
    mixers = _mixers(fields, _stated_kinds(fields))
    return _decoder("lfm2_moe", fields, tuple(LayerConfig(mixer, fed(number)) for number, mixer in enumerate(mixers)))


def _mixers(fields: ConfigFields, kinds: list[str]) -> list[Mixer]:
    fields.only("hidden_act", "silu")
    attends = attention(fields, theta=1e6, qk_norm="head")
    convolves = ShortConvConfig(fields.integer("conv_L_cache", 3), fields.flag("conv_bias", False))
    return [convolves if kind == _CONV else attends for kind in kinds]


def _decoder(name: str, fields: ConfigFields, layers: tuple[LayerConfig, ...]) -> DecoderConfig:
    tied = fields.flag("tie_embedding", True)
    return decoder(name, fields, layers, NormConfig(fields.number("norm_eps", 1e-5)), tie_word_embeddings=tied)


def _kinds(fields: ConfigFields, config: Mapping[str, Any]) -> list[str]:
    if fields.get("layer_types") is None:
        count = fields.integer("num_hidden_layers")
        full = config.get("full_attn_idxs")
        full = list(range(count)) if full is None else full
        if not isinstance(full, list) or any(type(number) is not int for number in full):
            raise fail("full_attn_idxs", "a list of layers", full)
        return [_FULL if number in full else _CONV for number in range(count)]
    return _stated_kinds(fields)


def _stated_kinds(fields: ConfigFields) -> list[str]:
    count, kinds = fields.integer("num_hidden_layers"), fields.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != count or any(kind not in (_CONV, _FULL) for kind in kinds):
        raise fail("layer_types", f"{_CONV} or {_FULL} for each of {count} layers", kinds)
    return kinds


def _inner_size(fields: ConfigFields) -> int:
    """The size of feed-forward layers, which the config may state for layers without gates."""
    size = fields.integer("block_ff_dim", fields.integer("intermediate_size", 12288))
    fields.ignore("intermediate_size")
    unit, factor = fields.integer("block_multiple_of", 256), fields.number("block_ffn_dim_multiplier", 1.0)
    if not fields.flag("block_auto_adjust_ff_dim", True):
        return size
    return -(-int(factor * int(2 * size / 3)) // unit) * unit


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    return _config_of_gguf(fields, "lfm2") | {"block_auto_adjust_ff_dim": False}


def _moe_from_gguf(fields: GgufFields) -> dict[str, Any]:
    config = _config_of_gguf(fields, "lfm2_moe") | sigmoid_experts_of_gguf(fields)
    return config | {
        "num_dense_layers": fields.integer("leading_dense_block_count", 0),
        "use_expert_bias": fields.has_tensor("exp_probs_b.bias"),
    }


def _config_of_gguf(fields: GgufFields, model_type: str) -> dict[str, Any]:
    kv_heads = fields.get("attention.head_count_kv")
    kv_heads = kv_heads if isinstance(kv_heads, list) else [kv_heads] * fields.integer("block_count")
    several = {heads for heads in kv_heads if heads}
    if len(several) > 1:
        raise fields.fail("attention.head_count_kv", "one number for all layers that attend", kv_heads)
    config = config_of_gguf(fields, model_type, kv_heads=several.pop() if several else None)
    return config | {
        "norm_eps": config.pop("rms_norm_eps"),
        "layer_types": [_FULL if heads else _CONV for heads in kv_heads],
        "conv_L_cache": fields.integer("shortconv.l_cache"),
    }


OF_ALL = (
    *renamed(
        {
            "input_layernorm": "operator_norm",
            "post_attention_layernorm": "ffn_norm",
            "mlp.gate_proj": "feed_forward.w1",
            "mlp.up_proj": "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2",
        }
    ),
    TensorRule("model.embedding_norm", ("model.norm",)),
    TensorRule(f"{LAYER}conv.conv.weight", (f"{LAYER}conv.conv1d.weight",), squeezed=True),
    TensorRule(f"{LAYER}conv.conv.bias", (f"{LAYER}conv.conv1d.bias",)),
)
"""Names in folders that LFM3 has as well."""
_MODULES = {
    "self_attn.q_norm": "self_attn.q_layernorm",
    "self_attn.k_norm": "self_attn.k_layernorm",
    "self_attn.o_proj": "self_attn.out_proj",
    "mlp.gate": "feed_forward.gate",
}
_IN_FOLDERS = (
    *OF_ALL,
    *renamed(_MODULES),
    *experts_in("feed_forward", ("w1", "w3", "w2")),
    TensorRule(f"{LAYER}feed_forward.expert_bias", (CORRECTION_BIAS,)),
)
_IN_GGUF = (
    TensorRule("token_embd_norm", ("model.norm",)),
    *(
        TensorRule(f"blk.{{layer}}.shortconv.{theirs}", (f"{LAYER}conv.{ours}",))
        for ours, theirs in {"in_proj": "in_proj", "out_proj": "out_proj", "conv1d": "conv"}.items()
    ),
    GGUF_CORRECTION_BIAS,
    *GGUF_NAMES,
)
FAMILIES = (
    Family("lfm2", ("lfm2",), lfm2, _IN_FOLDERS, GgufForm(("lfm2",), _from_gguf, _IN_GGUF)),
    Family("lfm2_moe", ("lfm2_moe",), lfm2_moe, _IN_FOLDERS, GgufForm(("lfm2moe",), _moe_from_gguf, _IN_GGUF)),
)
