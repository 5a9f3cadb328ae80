"""Llama."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits

MODELS = {
    "seven-heads-tied-bias": Tiny(
        "Llama",
        {
            "hidden_size": 56,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "head_dim": Tiny("Llama", {"head_dim": 20, "num_attention_heads": 3, "num_key_value_heads": 3}),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "llama", change=by_neighbours(judge.config.head_dim)))
