"""Mistral and Ministral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits
from tinyllm.models.families.families import decoder_config

WINDOW: dict[str, Any] = {"num_hidden_layers": 2, "sliding_window": 9}
KINDS = ["sliding_attention", "full_attention"]


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    """A head_dim of its own, a window on all layers; from both forms."""
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20}
    judge = Tiny("Mistral", WINDOW | heads).save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "llama", change=by_neighbours(20)))


def test_ministral_slides_where_its_layer_types_say_so(tmp_path: Path) -> None:
    judge = Tiny("Ministral", WINDOW | {"layer_types": KINDS, "head_dim": 8, "tie_word_embeddings": True}).save(
        tmp_path
    )
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)


@pytest.mark.parametrize("kind", [transformers.MistralConfig, transformers.MinistralConfig])
@pytest.mark.parametrize("window", [4096, None])
def test_transformers_own_configs_are_understood_whole(kind: Any, window: int | None) -> None:
    theirs = kind(sliding_window=window)
    ours = decoder_config(theirs.to_dict())
    assert {layer.attention.window for layer in ours.layers} == {window}
    assert (ours.max_position, ours.norm.eps, ours.num_layers) == (131072, 1e-6, 32)


def test_a_config_without_a_window_has_transformers_own() -> None:
    written = transformers.MistralConfig().to_dict()
    del written["sliding_window"]
    assert decoder_config(written) == decoder_config(transformers.MistralConfig().to_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 0},
        {"sliding_window": "9"},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"layer_types": KINDS * 16},
        {"layer_types": ["full_attention"]},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(transformers.MistralConfig().to_dict(), changes)
