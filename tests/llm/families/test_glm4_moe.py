"""GLM-4.5 to 4.7."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.catalogue.harness import backends, registry
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.llm import load
from tinyllm.models.decoder.config import MlpConfig, MoeConfig
from tinyllm.models.families.families import decoder_config

EXPERTS: dict[str, Any] = {"n_routed_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
MODELS = {
    "groups-norms-bias": Tiny(
        "Glm4Moe",
        EXPERTS
        | {
            "n_group": 3,
            "topk_group": 2,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.7,
            "use_qk_norm": True,
            "attention_bias": True,
            "head_dim": 20,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
        },
    ),
    "tied": Tiny(
        "Glm4Moe",
        EXPERTS
        | {
            "norm_topk_prob": False,
            "first_k_dense_replace": 0,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "tie_word_embeddings": True,
        },
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in ["numpy"] if model == "tied" else backends():
        assert_is_the_judges(tmp_path, judge, backend)


@pytest.mark.parametrize("model", MODELS)
def test_a_gguf_file_is_the_folder(model: str, tmp_path: Path) -> None:
    """It counts a layer that guesses further tokens among the others."""
    config = MODELS[model].save(tmp_path).config
    keys = {
        "block_count": config.num_hidden_layers + 1,
        "nextn_predict_layers": 1,
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_count": 6,
        "expert_used_count": 3,
        "expert_shared_count": config.n_shared_experts,
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
        "expert_feed_forward_length": 24,
        "expert_gating_func": 2,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_weights_scale": config.routed_scaling_factor,
        "rope.dimension_count": (getattr(config, "head_dim", None) or 12) // 2,
    }

    def renamed(name: str, tensor: Any) -> dict[str, Any]:
        return {name.replace("e_score_correction_bias", "e_score_correction.bias"): tensor}

    assert_same_logits(tmp_path, write_gguf(tmp_path, "glm4moe", keys, renamed))


def test_a_layer_that_guesses_further_tokens_is_skipped(tmp_path: Path) -> None:
    MODELS["tied"].save(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    extra = {f"model.layers.2.{name}.weight": tensors["model.norm.weight"].copy() for name in ("enorm", "hnorm")}
    save_file(tensors | extra, path)
    assert set(load(tmp_path, "numpy", registry=registry()).skipped_tensors) == set(extra)
    save_file(tensors | {"model.layers.3.enorm.weight": tensors["model.norm.weight"].copy()}, path)
    with pytest.raises(CheckpointError, match=r"surplus model\.layers\.3\.enorm\.weight"):
        load(tmp_path, "numpy", registry=registry())


def test_transformers_own_config_is_understood_whole() -> None:
    """With a size of heads, as published ones have it: its own 96 heads do not divide its 4096 columns."""
    made = decoder_config(own_config("Glm4Moe", head_dim=128))
    experts = MoeConfig(1408, 128, 8, "sigmoid", correction_bias=True, shared_size=1408)
    assert [layer.mlp for layer in made.layers[:3]] == [MlpConfig(10944), experts, experts]


@pytest.mark.parametrize(
    "changes",
    [
        {"n_group": 3},
        {"topk_group": 2},
        {"first_k_dense_replace": -1},
        {"routed_scaling_factor": 0},
        {"norm_topk_prob": "yes"},
        {"n_shared_experts": 0},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("Glm4Moe", head_dim=128), changes, ": expected")
