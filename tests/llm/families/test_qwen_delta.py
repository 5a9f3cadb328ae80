"""Qwen3-Next and Qwen3.5: a state that goes from token to token, beside gated attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.catalogue.harness import backends
from tests.llm.families.harness import Tiny, assert_is_the_judges
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import AttentionConfig, GatedDeltaConfig, MoeConfig
from tinyllm.models.families.families import decoder_config

DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 5,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
MODELS = {
    "next": Tiny("Qwen3Next", DELTA | EXPERTS | {"mlp_only_layers": [2]}),
    "3.5-bias": Tiny(
        "Qwen3_5",
        DELTA | {"attention_bias": True, "tie_word_embeddings": True},
        config_class="Qwen3_5TextConfig",
    ),
    "3.5-moe": Tiny(
        "Qwen3_5Moe",
        DELTA | EXPERTS | {"layer_types": DELTA["layer_types"][:2], "num_hidden_layers": 2},
        config_class="Qwen3_5MoeTextConfig",
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)


def test_transformers_own_configs_are_understood_whole() -> None:
    made = decoder_config(transformers.Qwen3NextConfig().to_dict())
    attends = [isinstance(layer.attention, AttentionConfig) for layer in made.layers]
    assert [number for number, whether in enumerate(attends) if whether] == list(range(3, 48, 4))
    assert made.layers[0].attention == GatedDeltaConfig(16, 32, 128, 128, 4)
    assert made.layers[0].mlp == MoeConfig(512, 512, 10, shared_size=512, shared_gate=True)
    attention = made.layers[3].attention
    assert isinstance(attention, AttentionConfig) and attention.rope is not None and attention.gated == "whole"
    assert (attention.rope.dims, attention.head_dim) == (64, 256)
    for kind in (transformers.Qwen3_5TextConfig, transformers.Qwen3_5MoeTextConfig):
        assert decoder_config(kind().to_dict()).norm.offset == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["linear_attention"]},
        {"layer_types": ["mamba"] * 48},
        {"linear_num_value_heads": 17},
        {"linear_conv_kernel_dim": 0},
        {"num_experts_per_tok": 513},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"config: {next(iter(changes))}: expected"):
        decoder_config(transformers.Qwen3NextConfig().to_dict() | changes)
