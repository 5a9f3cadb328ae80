"""MiniMax-M2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import MoeConfig
from tinyllm.models.families.families import decoder_config

TINY = Tiny(
    "MiniMaxM2",
    {
        "intermediate_size": 24,
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "head_dim": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    },
)
KEYS: dict[str, Any] = {
    "expert_count": 5,
    "expert_used_count": 2,
    "expert_feed_forward_length": 24,
    "expert_gating_func": 2,
    "rope.dimension_count": 6,
}


def _names(name: str, tensor: Any) -> dict[str, Any]:
    for theirs, ours in {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.items():
        name = name.replace(f"block_sparse_moe.experts.{theirs}", f"mlp.experts.{ours}")
    return {name.replace("correction_bias", "correction.bias"): tensor}


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "minimax-m2", KEYS, _names))
    with pytest.raises(CheckpointError, match=r"minimax-m2.expert_weights_scale: expected 1.0, got 2.0"):
        assert_same_logits(tmp_path, write_gguf(tmp_path, "minimax-m2", KEYS | {"expert_weights_scale": 2.0}, _names))


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("MiniMaxM2"))
    assert made.layers[0].mlp == MoeConfig(1536, 256, 8, "sigmoid", correction_bias=True)
    assert made.layers[0].attention.rope.theta == 5e6
    published = {"rotary_dim": 64, "use_qk_norm": True, "scoring_func": "sigmoid", "attn_type_list": [1] * 62}
    read = decoder_config(own_config("MiniMaxM2", rope_parameters=None, rope_theta=5e6, **published))
    assert read.layers[0].attention.rope.dims == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"scoring_func": "softmax"},
        {"rotary_dim": 129},
        {"attn_type_list": [1, 0]},
        {"num_local_experts": 0},
        {"shared_intermediate_size": 8},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("MiniMaxM2"), changes)
