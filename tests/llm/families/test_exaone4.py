"""EXAONE 4.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.families.families import decoder_config

KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
MODELS: dict[str, tuple[Tiny, dict[str, Any]]] = {
    "slides": (
        Tiny("Exaone4", {"layer_types": KINDS, "sliding_window": 9}),
        {"attention.sliding_window_pattern": [True, True, False]},
    ),
    "whole": (
        Tiny("Exaone4", {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2, "sliding_window": None}),
        {},
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    """Layers that see everything rotate where no layer slides."""
    tiny, keys = MODELS[model]
    judge = tiny.save(tmp_path)
    for backend in backends() if model == "slides" else ["numpy"]:
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "exaone4", keys))


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("Exaone4"))
    assert [layer.attention.window for layer in made.layers] == [4096, 4096, 4096, None] * 8
    assert [layer.attention.rope is None for layer in made.layers[:4]] == [False] * 3 + [True]
    assert decoder_config(own_config("Exaone4", layer_types=None)) == made
    assert decoder_config(own_config("Exaone4", sliding_window_pattern="LLLG")) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["chunked_attention"] * 32},
        {"sliding_window": 0},
        {"hidden_act": "gelu"},
        {"sliding_window_pattern": "LLLG", "layer_types": None},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("Exaone4"), changes)
