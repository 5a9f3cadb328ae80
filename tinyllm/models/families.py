"""Model families: how a `config.json` becomes a `DecoderConfig`. A further family is a function of a few lines and a `Family`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyllm.errors import CheckpointError, PluginError, TinyllmError, suggest
from tinyllm.models.config_fields import ConfigFields, fail
from tinyllm.models.decoder_config import DecoderConfig


@dataclass(frozen=True)
class Family:
    """A family of decoders: the `model_type`s it answers to, and what makes a `DecoderConfig` of a `config.json`.

    `from_config` raises `CheckpointError` for a field that would change the output and that it does not understand.
    """

    name: str
    model_types: tuple[str, ...]
    from_config: Callable[[Mapping[str, Any]], DecoderConfig]


def llama(config: Mapping[str, Any]) -> DecoderConfig:
    """Llama 1 to 3.x, SmolLM2, TinyLlama. Source: transformers' `LlamaConfig`."""
    fields = ConfigFields(config)
    fields.only("pretraining_tp", 1)  # more would sum slices in another order
    fields.only("rope_interleaved", False)
    attention_bias = fields.flag("attention_bias", False)
    return _decoder("llama", fields, qkv_bias=attention_bias, o_bias=attention_bias, mlp_bias=fields.flag("mlp_bias", False))


def qwen2(config: Mapping[str, Any]) -> DecoderConfig:
    """Qwen2 and Qwen2.5, with biases on q, k and v. Source: transformers' `Qwen2Config`."""
    fields = ConfigFields(config)
    if fields.flag("use_sliding_window", False):
        raise fail("use_sliding_window", "false", True)
    fields.ignore("sliding_window", "max_window_layers")  # they speak only where use_sliding_window is true
    fields.only("use_mrope", False)
    return _decoder("qwen2", fields, qkv_bias=True)


def _decoder(family: str, fields: ConfigFields, qkv_bias: bool = False, o_bias: bool = False, mlp_bias: bool = False) -> DecoderConfig:
    """The fields that families share. Refuses what nobody read."""
    fields.only("hidden_act", "silu")
    fields.only("partial_rotary_factor", 1)
    fields.only("is_causal", True)
    layers, hidden, heads = fields.integer("num_hidden_layers"), fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fail("num_key_value_heads", f"a divisor of the {heads} heads", kv_heads)
    if fields.get("head_dim") is None and hidden % heads:
        raise fail("hidden_size", f"a multiple of the {heads} heads", hidden)
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise fail("head_dim", "an even number, as rotation needs pairs", head_dim)
    kinds = fields.get("layer_types", [])
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise fail("layer_types", "full_attention alone", kinds)
    if kinds and len(kinds) != layers:
        raise fail("layer_types", f"{layers} entries", len(kinds))
    max_position = fields.integer("max_position_embeddings", 2048)
    theta, scaling = fields.rope(max_position)
    bos = fields.token_ids("bos_token_id")
    made = DecoderConfig(
        family=family,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=max_position,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=fields.token_ids("eos_token_id"),
    )
    fields.finish()
    return made


FAMILIES = (Family("llama", ("llama",), llama), Family("qwen2", ("qwen2",), qwen2))


def decoder_config(config: Mapping[str, Any], families: Sequence[Family] = FAMILIES) -> DecoderConfig:
    """The `DecoderConfig` of a `config.json`, by the family that its `model_type` names.

    Raises `CheckpointError` for a model type of no family, and for fields that the family does not understand; `PluginError`
    for a plugin's family that fails in another way.
    """
    model_type = config.get("model_type")
    for family in families:
        if model_type in family.model_types:
            return family.from_config(config) if family in FAMILIES else _by_plugin(family, config)
    known = [name for family in families for name in family.model_types]
    raise CheckpointError(f"config: model_type: expected a known family, got {model_type!r}.{suggest(str(model_type), known)}")


def _by_plugin(family: Family, config: Mapping[str, Any]) -> DecoderConfig:
    try:
        made = family.from_config(config)
    except TinyllmError:
        raise
    except Exception as error:  # a plugin's function may raise anything
        raise PluginError(f"family {family.name!r}: from_config failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, DecoderConfig):
        raise PluginError(f"family {family.name!r}: from_config: expected a DecoderConfig, got {made!r}")
    return made
