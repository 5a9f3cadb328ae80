"""dots.llm1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import MlpConfig, MoeConfig
from tinyllm.models.families.families import decoder_config

EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "sliding_window": None,
    "routed_scaling_factor": 1.7,
}
MODELS = {
    "whole": Tiny("Dots1", EXPERTS),
    "slides-groups": Tiny(
        "Dots1",
        EXPERTS
        | {"sliding_window": 9, "max_window_layers": 1, "norm_topk_prob": True, "n_group": 3, "topk_group": 1}
        | {"first_k_dense_replace": 0, "attention_bias": True, "num_hidden_layers": 2},
    ),
}
KEYS: dict[str, Any] = {
    "expert_count": 6,
    "expert_used_count": 2,
    "expert_shared_count": 2,
    "expert_feed_forward_length": 24,
    "expert_gating_func": 2,
    "expert_weights_norm": False,
    "expert_weights_scale": 1.7,
    "leading_dense_block_count": 1,
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends() if model == "whole" else ["numpy"]:
        assert_is_the_judges(tmp_path, judge, backend)


def test_a_gguf_file_is_the_folder(tmp_path: Path) -> None:
    MODELS["whole"].save(tmp_path)

    def renamed(name: str, tensor: Any) -> dict[str, Any]:
        return {name.replace("correction_bias", "correction.bias"): tensor}

    assert_same_logits(tmp_path, write_gguf(tmp_path, "dots1", KEYS, renamed))


def test_transformers_own_config_is_understood_whole() -> None:
    """All but the numbers of experts, which it leaves to be stated."""
    stated = {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1}
    made = decoder_config(own_config("Dots1", **stated))
    experts = MoeConfig(1408, 128, 6, "sigmoid", normalize=False, correction_bias=True, shared_size=2816)
    assert [layer.mlp for layer in made.layers[:3]] == [MlpConfig(10944), experts, experts]
    with pytest.raises(CheckpointError, match="config: n_shared_experts: expected"):
        decoder_config(own_config("Dots1", **stated | {"n_shared_experts": None}))


@pytest.mark.parametrize(
    "changes",
    [{"n_group": 5}, {"scoring_func": "softmax"}, {"first_k_dense_replace": -1}],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("Dots1", **EXPERTS), changes)


@pytest.mark.parametrize(
    "field", ["norm_topk_prob", "sliding_window", "max_window_layers", "n_group", "routed_scaling_factor"]
)
def test_a_field_that_is_left_out_is_as_transformers_has_it(field: str) -> None:
    whole = own_config("Dots1", n_routed_experts=128, n_shared_experts=2, num_experts_per_tok=6, num_hidden_layers=64)
    whole["layer_types"] = None
    assert decoder_config({name: value for name, value in whole.items() if name != field}) == decoder_config(whole)
