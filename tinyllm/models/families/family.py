"""A family of decoders, and the fields that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.config_fields import ConfigFields, fail


@dataclass(frozen=True)
class Family:
    """A family of decoders: the `model_type`s it answers to, and what makes a `DecoderConfig` of a `config.json`.

    `from_config` raises `CheckpointError` for a field that would change the output and that it does not understand.
    """

    name: str
    model_types: tuple[str, ...]
    from_config: Callable[[Mapping[str, Any]], DecoderConfig]


def decoder(
    family: str, fields: ConfigFields, qkv_bias: bool = False, o_bias: bool = False, mlp_bias: bool = False
) -> DecoderConfig:
    """The fields that families share. Refuses what nobody read."""
    fields.only("hidden_act", "silu")
    fields.only("partial_rotary_factor", 1)
    fields.only("is_causal", True)
    layers, hidden, heads = (
        fields.integer("num_hidden_layers"),
        fields.integer("hidden_size"),
        fields.integer("num_attention_heads"),
    )
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
