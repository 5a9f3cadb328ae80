"""ERNIE 4.5, with experts and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.decoder.config import MlpConfig, MoeConfig
from tinyllm.models.families.families import decoder_config

EXPERTS: dict[str, Any] = {"moe_num_experts": 5, "moe_k": 2, "moe_intermediate_size": 24}
MODELS = {
    "dense": Tiny("Ernie4_5", {"head_dim": 10, "num_hidden_layers": 2, "use_bias": True}),
    "experts": Tiny("Ernie4_5_Moe", EXPERTS | {"moe_num_shared_experts": 2, "tie_word_embeddings": False}),
    "experts-between": Tiny(
        "Ernie4_5_Moe",
        EXPERTS
        | {"num_hidden_layers": 5, "moe_layer_interval": 2, "moe_layer_end_index": 2, "moe_num_shared_experts": 0},
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in ["numpy"] if model == "experts-between" else backends():
        assert_is_the_judges(tmp_path, judge, backend)


def test_a_gguf_file_is_the_folder(tmp_path: Path) -> None:
    """Its rows are as in the folder, rotated by neighbours in both."""
    MODELS["dense"].save(tmp_path)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "ernie4_5"))


def test_a_gguf_file_with_experts_is_the_folder(tmp_path: Path) -> None:
    MODELS["experts"].save(tmp_path)
    keys = {
        "expert_count": 5,
        "expert_used_count": 2,
        "expert_feed_forward_length": 24,
        "expert_shared_count": 2,
        "expert_shared_feed_forward_length": 40,
        "leading_dense_block_count": 1,
        "interleave_moe_layer_step": 1,
    }

    def changed(name: str, tensor: Any) -> Any:
        if name.endswith("e_score_correction_bias"):
            return {name.replace("correction_bias", "correction.bias"): tensor.reshape(-1)}
        return tensor

    assert_same_logits(tmp_path, write_gguf(tmp_path, "ernie4_5-moe", keys, changed))


def test_transformers_own_configs_are_understood_whole() -> None:
    dense, sparse = (decoder_config(own_config(kind)) for kind in ("Ernie4_5", "Ernie4_5_Moe"))
    attends = dense.layers[0].attention
    assert (attends.rope.theta, attends.rope.traditional, attends.head_dim) == (500000.0, True, 128)
    assert dense.tie_word_embeddings and sparse.tie_word_embeddings
    experts = MoeConfig(1536, 64, 6, correction_bias=True, shared_size=3072)
    assert [layer.mlp for layer in sparse.layers] == [MlpConfig(12288), *[experts] * 27]
    published = own_config("Ernie4_5_Moe", moe_capacity=[64, 64, 64], moe_use_aux_free=True)
    assert decoder_config(published) == sparse


@pytest.mark.parametrize(
    "changes",
    [
        {"moe_k": 65},
        {"moe_layer_start_index": -1},
        {"moe_layer_end_index": "3"},
        {"moe_norm_min": 1.0},
        {"use_bias": True},
        {"moe_num_shared_experts": -1},
        {"hidden_act": "gelu"},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("Ernie4_5_Moe"), changes)
