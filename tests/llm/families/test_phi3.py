"""Phi-3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.families.families import decoder_config

MODELS = {
    "three-heads-window": Tiny(
        "Phi3", {"num_attention_heads": 3, "num_key_value_heads": 1, "sliding_window": 11, "pad_token_id": 0}
    ),
    "partial-tied": Tiny(
        "Phi3",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75},
            "tie_word_embeddings": True,
            "num_key_value_heads": 6,
        },
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    rotated = int(judge.config.rope_parameters["partial_rotary_factor"] * judge.model.layers[0].self_attn.head_dim)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "phi3", {"rope.dimension_count": rotated}))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("partial_rotary_factor", 0.2, "a share that is an even number"),
        ("sliding_window", 0, "a positive integer"),
        ("lm_head_bias", True, "False"),
    ],
)
def test_fields_out_of_range_are_named(field: str, value: object, expected: str) -> None:
    with pytest.raises(CheckpointError, match=f"config: {field}: expected {expected}"):
        decoder_config(own_config("Phi3", rope_parameters=None, **{field: value}))


def test_transformers_own_config_is_understood_whole() -> None:
    layers = set(decoder_config(own_config("Phi3")).layers)
    assert [(layer.attention.window, layer.mlp.size) for layer in layers] == [(None, 8192)]
