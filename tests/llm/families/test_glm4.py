"""GLM-4."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.harness import Tiny, assert_is_the_judges

MODELS = {
    "glm4": Tiny("Glm4", {"head_dim": 20, "num_attention_heads": 3, "num_key_value_heads": 1}),
    "glm-seven-heads-tied": Tiny(
        "Glm",
        {
            "num_attention_heads": 7,
            "num_key_value_heads": 7,
            "head_dim": 12,
            "tie_word_embeddings": True,
            "attention_bias": False,
        },
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
