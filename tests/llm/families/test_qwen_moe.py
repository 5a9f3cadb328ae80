"""Qwen2 and Qwen3 with mixtures of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits
from tinyllm.models.decoder.config import MlpConfig, MoeConfig
from tinyllm.models.families.families import decoder_config

EXPERTS: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MODELS = {
    "qwen3_moe": Tiny(
        "Qwen3Moe",
        EXPERTS
        | {
            "head_dim": 10,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
        },
    ),
    "qwen2_moe": Tiny(
        "Qwen2Moe",
        EXPERTS | {"shared_expert_intermediate_size": 40, "num_hidden_layers": 2, "tie_word_embeddings": True},
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)


@pytest.mark.parametrize("model", MODELS)
def test_a_gguf_file_is_the_folder(model: str, tmp_path: Path) -> None:
    """Its experts lie in one tensor; it knows no dense layers between."""
    tiny = MODELS[model]
    tiny = Tiny(tiny.classes, tiny.config | {"mlp_only_layers": []})
    tiny.save(tmp_path)
    keys = {
        "expert_count": 5,
        "expert_used_count": 2,
        "expert_feed_forward_length": 24,
        "expert_shared_feed_forward_length": tiny.config.get("shared_expert_intermediate_size"),
    }
    assert_same_logits(tmp_path, write_gguf(tmp_path, model.replace("_", ""), keys))


def test_transformers_own_configs_are_understood_whole() -> None:
    made = decoder_config(transformers.Qwen3MoeConfig(mlp_only_layers=[3], decoder_sparse_step=2).to_dict())
    dense, sparse = MlpConfig(6144), MoeConfig(768, 128, 8, normalize=False)
    assert [layer.mlp for layer in made.layers[:6]] == [dense, sparse, dense, dense, dense, sparse]
    made = decoder_config(transformers.Qwen2MoeConfig().to_dict())
    assert made.layers[0].mlp == MoeConfig(1408, 60, 4, normalize=False, shared_size=5632, shared_gate=True)


@pytest.mark.parametrize(
    "changes",
    [{"num_experts": 0}, {"num_experts_per_tok": 129}, {"mlp_only_layers": "3"}, {"decoder_sparse_step": 0}],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(transformers.Qwen3MoeConfig().to_dict(), changes, ": expected")
