"""GLM-4."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.models.families.families import decoder_config

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
    architecture = "glm4" if model == "glm4" else "chatglm"
    gguf = write_gguf(tmp_path, architecture, {"rope.dimension_count": judge.config.head_dim // 2})
    assert_same_logits(tmp_path, gguf)


@pytest.mark.parametrize("kind", ["Glm", "Glm4"])
def test_transformers_own_config_is_understood_whole(kind: str) -> None:
    attention = decoder_config(own_config(kind)).layers[0].attention
    assert attention.rope is not None
    assert (attention.rope.dims, attention.head_dim, attention.qkv_bias) == (64, 128, True)
