"""gpt-oss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.experts import experts_alone_of_gguf, routed_experts
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    attention,
    attention_by_kind,
    decoder,
    layer_kinds,
)
from tinyllm.models.families.gguf_config import config_of_gguf, windows_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields
from tinyllm.models.families.tensor_rules import LAYER, TensorRule, renamed

_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def gpt_oss(config: Mapping[str, Any]) -> DecoderConfig:
    """gpt-oss: heads with sinks, every other layer sliding, biases throughout, and experts with a clamped swiglu.

    Source: transformers' `GptOssConfig`."""
    stated = any(config.get(name) is not None for name in ("rope_parameters", "rope_scaling"))
    fields = ConfigFields(config if stated else {**config, "rope_parameters": _YARN})
    fields.only("hidden_act", "silu")
    fields.ignore("initial_context_length")  # OpenAI's name for the original context of the rope
    bias = fields.flag("attention_bias", True)
    kinds = layer_kinds(fields, lambda layer: "full_attention" if layer % 2 else "sliding_attention")
    attends = attention(fields, theta=150000.0, qkv_bias=bias, o_bias=bias, sinks=True)
    attentions = attention_by_kind(fields, attends, kinds)
    experts = routed_experts(
        fields,
        fields.integer("intermediate_size"),
        score="softmax_of_chosen",
        normalize=False,
        router_bias=True,
        expert_bias=True,
        limit=fields.number("swiglu_limit", 7.0),
        alpha=fields.number("swiglu_alpha", 1.702),
        up_offset=1.0,
    )
    fields.only("experts_per_token", experts.top_k)  # OpenAI's name for the same
    layers = {kind: LayerConfig(attends, experts) for kind, attends in attentions.items()}
    return decoder("gpt_oss", fields, tuple(layers[kind] for kind in kinds))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    """Files say nothing of how the ends of YaRN's ramp are rounded; the model was trained without."""
    config = config_of_gguf(fields, "gpt_oss") | experts_alone_of_gguf(fields) | windows_of_gguf(fields, 2)
    if config["rope_scaling"] is not None:
        config["rope_scaling"] |= {"truncate": False}
    return config | {"attention_bias": fields.biases()["attention_bias"]}


_EXPERTS = f"{LAYER}mlp.experts."
_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def _stacks(ending: str, ours: str, **settings: Any) -> tuple[TensorRule, ...]:
    """Gates and ups take turns in one tensor."""
    return tuple(
        TensorRule(f"{_EXPERTS}{theirs}{ending}", tuple(f"{_EXPERTS}{name}{ours}" for name in names), True, **settings)
        for theirs, names in _PARTS.items()
    )


_IN_FOLDERS = (
    *renamed({"mlp.gate": "mlp.router"}),
    *_stacks("_blocks", ".weight"),
    *_stacks("", ".weight", transposed=True),
    *_stacks("_bias", ".bias"),
    # as mlx-lm has them
    *(TensorRule(f"{_EXPERTS}{name}", (f"{_EXPERTS}{name}",)) for names in _PARTS.values() for name in names),
)
_IN_GGUF = (
    TensorRule("blk.{layer}.post_attention_norm", (f"{LAYER}post_attention_layernorm",)),
    TensorRule("blk.{layer}.attn_sinks.weight", (f"{LAYER}self_attn.sinks",)),
    *GGUF_NAMES,
)
FAMILY = Family("gpt_oss", ("gpt_oss",), gpt_oss, _IN_FOLDERS, GgufForm(("gpt-oss",), _from_gguf, _IN_GGUF))
