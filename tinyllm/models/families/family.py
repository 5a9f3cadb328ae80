"""A family of decoders: what makes a config of its files, and where their weights are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinyllm.models.decoder.config import (
    Activation,
    AttentionConfig,
    DecoderConfig,
    LayerConfig,
    NormConfig,
)
from tinyllm.models.families.config_fields import ConfigFields, fail
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.rope_fields import RopeFields, rope_fields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
"""Names of activations in configs."""

GGUF_NAMES = (
    TensorRule("token_embd", ("model.embed_tokens",)),
    TensorRule("output_norm", ("model.norm",)),
    TensorRule("output", ("lm_head",)),
    *(
        TensorRule(f"blk.{{layer}}.{theirs}", (LAYER + ours,))
        for theirs, ours in {
            "attn_norm": "input_layernorm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "attn_q_norm": "self_attn.q_norm",
            "attn_k_norm": "self_attn.k_norm",
            "post_attention_norm": "post_self_attn_layernorm",
            "post_ffw_norm": "post_mlp_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
            "ffn_gate_inp": "mlp.gate",
            "ffn_gate_exps": "mlp.experts.gate_proj",
            "ffn_up_exps": "mlp.experts.up_proj",
            "ffn_down_exps": "mlp.experts.down_proj",
        }.items()
    ),
    TensorRule("blk.{layer}.ffn_gate_up_exps", (f"{LAYER}mlp.experts.gate_proj", f"{LAYER}mlp.experts.up_proj")),
)
"""The names that GGUF has for what most families have. A family's own rules come before them."""


@dataclass(frozen=True)
class GgufForm:
    """A family's GGUF files.

    architectures: `general.architecture`. config: makes the `config.json` that `from_config` reads; it raises
        `CheckpointError` for what it does not understand. tensors: where the weights are. keys: what files have under
        keys that mean something else in those of other families, for `gguf_keys` has their meaning.
    """

    architectures: tuple[str, ...]
    config: Callable[[GgufFields], dict[str, Any]]
    tensors: tuple[TensorRule, ...] = GGUF_NAMES
    keys: Callable[[DecoderConfig], Mapping[str, Any]] = lambda config: {}


@dataclass(frozen=True)
class Family:
    """A family of decoders: the `model_type`s it answers to, and what makes a `DecoderConfig` of a `config.json`.

    `from_config` raises `CheckpointError` for a field that would change the output and that it does not understand.
    tensors: where the graph's weights are in folders; those that no rule names are there by their own names.
    gguf: the same for GGUF files, where the family has any.
    skipped: beginnings of the names of tensors that the text does without, such as those of a vision tower; `{layers}`
        stands for the number of layers, and so for the first one after them.
    """

    name: str
    model_types: tuple[str, ...]
    from_config: Callable[[Mapping[str, Any]], DecoderConfig]
    tensors: tuple[TensorRule, ...] = ()
    gguf: GgufForm | None = None
    skipped: tuple[str, ...] = ()

    @property
    def architectures(self) -> tuple[str, ...]:
        """Of its GGUF files."""
        return self.gguf.architectures if self.gguf else ()

    @property
    def about(self) -> str:
        """What it is, for listings: what `from_config` says of itself, up to its source."""
        return " ".join((inspect.getdoc(self.from_config) or "").partition("Source:")[0].split())

    def rules(self, format: str) -> tuple[TensorRule, ...]:
        """The tensor rules of a checkpoint's format."""
        return self.tensors if format != "gguf" or self.gguf is None else self.gguf.tensors


def plain_gguf(model_type: str) -> Callable[[GgufFields], dict[str, Any]]:
    """The config of GGUF files that have nothing of their own beside what all share."""
    return lambda fields: config_of_gguf(fields, model_type)


def activation(fields: ConfigFields, default: str = "silu", field: str = "hidden_act") -> Activation:
    """The activation of feed-forward layers."""
    name = fields.get(field, default)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise fail(field, f"one of {', '.join(ACTIVATIONS)}", name)
    return ACTIVATIONS[name]


def attention(
    fields: ConfigFields,
    rope: RopeFields | None = None,
    traditional: bool = False,
    theta: float = 10000.0,
    **settings: Any,
) -> AttentionConfig:
    """Heads as most families state them.

    rope: as the config states it; None: one for all layers, which rotates whole heads. traditional: of `RopeConfig`.
    theta: that of a config that states none. settings: the rest of an `AttentionConfig`.
    """
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fail("num_key_value_heads", f"a divisor of the {heads} heads", kv_heads)
    if fields.get("head_dim") is None and hidden % heads:
        raise fail("hidden_size", f"a multiple of the {heads} heads", hidden)
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise fail("head_dim", "an even number, as rotation needs pairs", head_dim)
    stated = rope or rope_fields(fields, max_position(fields), theta=theta)
    if rope is None and stated.share != 1:
        raise fail("partial_rotary_factor", "1", stated.share)
    settings["rope"] = stated.config(fields, head_dim, traditional)
    return AttentionConfig(heads, kv_heads, head_dim, **settings)


def max_position(fields: ConfigFields) -> int:
    """The longest sequence."""
    return fields.integer("max_position_embeddings", 2048)


def layer_kinds(fields: ConfigFields, default: Callable[[int], str] = lambda layer: "full_attention") -> list[str]:
    """What each layer attends to, `full_attention` or `sliding_attention`: from `layer_types`, else by number."""
    count = fields.integer("num_hidden_layers")
    kinds = fields.get("layer_types")
    if kinds is None:
        return [default(layer) for layer in range(count)]
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or any(kind not in known for kind in kinds):
        raise fail("layer_types", f"{' or '.join(known)} for each layer", kinds)
    if len(kinds) != count:
        raise fail("layer_types", f"{count} entries", len(kinds))
    return kinds


def attention_by_kind(
    fields: ConfigFields, attention: AttentionConfig, kinds: Sequence[str], sliding: AttentionConfig | None = None
) -> dict[str, AttentionConfig]:
    """The attention of each kind of layer: those that slide see `sliding_window` keys. sliding: theirs, where it is not
    the attention of the others."""
    made = {"full_attention": attention}
    if "sliding_attention" in kinds:
        made["sliding_attention"] = replace(sliding or attention, window=fields.integer("sliding_window"))
    fields.ignore("sliding_window")  # it speaks only where a layer slides
    return made


def full_attention(fields: ConfigFields) -> int:
    """The number of layers, all of which attend to everything."""
    kinds = layer_kinds(fields)
    if "sliding_attention" in kinds:
        raise fail("layer_types", "full_attention alone", kinds)
    return len(kinds)


def decoder(
    family: str, fields: ConfigFields, layers: tuple[LayerConfig, ...], norm: NormConfig | None = None, **settings: Any
) -> DecoderConfig:
    """The fields that families share; settings: the rest of a `DecoderConfig`. Refuses what nobody read."""
    fields.only("is_causal", True)
    bos = fields.token_ids("bos_token_id")
    tied = settings.pop("tie_word_embeddings", False)
    made = DecoderConfig(
        family=family,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        max_position=max_position(fields),
        layers=layers,
        norm=norm or NormConfig(fields.number("rms_norm_eps", 1e-6)),
        tie_word_embeddings=fields.flag("tie_word_embeddings", tied),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=fields.token_ids("eos_token_id"),
        **settings,
    )
    fields.finish()
    return made
