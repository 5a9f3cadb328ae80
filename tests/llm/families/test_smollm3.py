"""SmolLM3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.families.families import decoder_config

SMALL: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1}
SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 9}


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    """Every fourth layer rotates nothing; in both forms."""
    judge = Tiny("SmolLM3", SMALL | {"num_hidden_layers": 4, "attention_bias": True, "mlp_bias": True}).save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "smollm3", change=by_neighbours(8)))


def test_layers_without_rope_slide(tmp_path: Path) -> None:
    some = {"no_rope_layers": [0, 1, 0], "num_hidden_layers": 2, "tie_word_embeddings": False}
    judge = Tiny("SmolLM3", SMALL | SLIDING | some).save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("SmolLM3"))
    ropes = [layer.attention.rope for layer in made.layers]
    assert [rope is None for rope in ropes] == [False, False, False, True] * 9
    assert ropes[0] is not None and ropes[0].theta == 2e6
    without = {name: value for name, value in own_config("SmolLM3").items() if not name.startswith(("no_rope", "rope"))}
    assert decoder_config(without) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"no_rope_layers": [1] * 35},
        {"no_rope_layers": [2] * 36},
        {"no_rope_layer_interval": 0},
        {"layer_types": ["sliding_attention"] * 36},
        {"use_sliding_window": 1},
        {"partial_rotary_factor": 0.5},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("SmolLM3"), changes)
