"""dots.llm1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.models.decoder.config import DecoderConfig, LayerConfig, MlpConfig
from tinyllm.models.families.config_fields import ConfigFields
from tinyllm.models.families.experts import (
    GGUF_CORRECTION_BIAS,
    GGUF_SHARED_EXPERT,
    SHARED_EXPERTS,
    expert_groups,
    experts_in,
    first_dense,
    sigmoid_experts,
    sigmoid_experts_of_gguf,
)
from tinyllm.models.families.family import (
    GGUF_NAMES,
    Family,
    GgufForm,
    attention,
    attention_by_kind,
    decoder,
    layer_kinds,
)
from tinyllm.models.families.gguf_config import config_of_gguf
from tinyllm.models.families.gguf_fields import GgufFields


def dots1(config: Mapping[str, Any]) -> DecoderConfig:
    """dots.llm1: norms of each head's queries and keys; experts by sigmoids with a bias for the choice, in all but the
    first layers, and one that every token goes through. Source: transformers' `Dots1Config`."""
    fields = ConfigFields({"sliding_window": 4096, "norm_topk_prob": False, **config})
    fields.only("hidden_act", "silu")
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    fields.only("moe_layer_freq", 1)
    fields.only("pretraining_tp", 1)
    bias = fields.flag("attention_bias", False)
    attends = attention(fields, qkv_bias=bias, o_bias=bias, qk_norm="head")
    slides, first = fields.get("sliding_window") is not None, fields.integer("max_window_layers", 62)
    kinds = layer_kinds(fields, lambda layer: "sliding_attention" if slides and layer >= first else "full_attention")
    by_kind = attention_by_kind(fields, attends, kinds)
    experts = sigmoid_experts(
        fields,
        correction_bias=True,
        shared_size=fields.integer("n_shared_experts") * fields.integer("moe_intermediate_size"),
        **expert_groups(fields),
    )
    fed = first_dense(fields, "first_k_dense_replace", 0, MlpConfig(fields.integer("intermediate_size")), experts)
    return decoder("dots1", fields, tuple(LayerConfig(by_kind[kind], fed(layer)) for layer, kind in enumerate(kinds)))


def _from_gguf(fields: GgufFields) -> dict[str, Any]:
    made = config_of_gguf(fields, "dots1") | sigmoid_experts_of_gguf(fields)
    fields.ignore("expert_shared_feed_forward_length")  # that of as many experts as there are shared ones
    return made | {
        "sliding_window": None,
        "n_routed_experts": made.pop("num_experts"),
        "n_shared_experts": fields.integer("expert_shared_count"),
        "first_k_dense_replace": fields.get("leading_dense_block_count", 0),
    }


_IN_GGUF = (GGUF_CORRECTION_BIAS, *GGUF_SHARED_EXPERT, *GGUF_NAMES)
FAMILY = Family(
    "dots1", ("dots1",), dots1, (*SHARED_EXPERTS, *experts_in()), GgufForm(("dots1",), _from_gguf, _IN_GGUF)
)
