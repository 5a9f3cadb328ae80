"""Seed-OSS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.decoder.config import MlpConfig
from tinyllm.models.families.families import decoder_config

MODELS = {
    "published": Tiny("SeedOss", {"head_dim": 10, "num_hidden_layers": 2}),
    "biases": Tiny(
        "SeedOss", {"num_hidden_layers": 2, "attention_bias": False, "attention_out_bias": True, "mlp_bias": True}
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends() if model == "published" else ["numpy"]:
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "seed_oss"))


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("SeedOss"))
    attends = made.layers[0].attention
    assert (attends.head_dim, attends.qkv_bias, attends.o_bias, made.max_position) == (128, True, False, 524288)
    assert made.layers[0].mlp == MlpConfig(27648)


@pytest.mark.parametrize(
    "changes", [{"attention_out_bias": 1}, {"pretraining_tp": 2}, {"hidden_act": "gelu"}, {"head_dim": 5}], ids=str
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("SeedOss"), changes)
