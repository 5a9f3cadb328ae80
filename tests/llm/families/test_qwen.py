"""Qwen2 with layers that slide, and Qwen3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits
from tinyllm.models.families.families import decoder_config

SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
HEADS = {"num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 10}
MODELS = {
    "qwen2-sliding": Tiny("Qwen2", SLIDING | {"num_hidden_layers": 2}),
    "qwen3": Tiny("Qwen3", HEADS | {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "qwen3-sliding-bias": Tiny("Qwen3", SLIDING | {"num_hidden_layers": 2, "attention_bias": True, "head_dim": 16}),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    config = judge.config
    slides = [kind == "sliding_attention" for kind in config.layer_types]
    keys = {"attention.sliding_window_pattern": slides} if any(slides) else {"attention.sliding_window": None}
    assert_same_logits(tmp_path, write_gguf(tmp_path, config.model_type, keys))


@pytest.mark.parametrize("kind", [transformers.Qwen2Config, transformers.Qwen3Config])
def test_transformers_own_configs_are_understood_whole(kind: Any) -> None:
    plain = decoder_config(kind().to_dict())
    assert {layer.attention.window for layer in plain.layers} == {None}
    slides = decoder_config(kind(use_sliding_window=True).to_dict())
    assert [layer.attention.window for layer in slides.layers] == [None] * 28 + [4096] * 4
    old = {name: value for name, value in kind(use_sliding_window=True).to_dict().items() if name != "layer_types"}
    assert decoder_config(old) == slides


def test_heads_of_qwen3_have_transformers_own_size() -> None:
    written = transformers.Qwen3Config(hidden_size=1024, num_attention_heads=16, num_key_value_heads=8).to_dict()
    assert decoder_config(written).layers[0].attention.head_dim == 128
    del written["head_dim"]
    assert decoder_config(written).layers[0].attention.head_dim == 128


@pytest.mark.parametrize("kind", [transformers.Qwen2Config, transformers.Qwen3Config])
@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": 1},
        {"max_window_layers": -1, "use_sliding_window": True},
        {"sliding_window": None, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 32},
        {"layer_types": ["sliding_attention"] * 32},
        {"use_mrope": True},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(kind: Any, changes: dict[str, Any]) -> None:
    assert_refused(kind().to_dict(), changes)
