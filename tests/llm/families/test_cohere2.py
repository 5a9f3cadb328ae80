"""Cohere2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.families.families import decoder_config

KINDS = ["sliding_attention", "full_attention"]
MODELS = {
    "bias": Tiny(
        "Cohere2",
        {
            "num_hidden_layers": 2,
            "attention_bias": True,
            "sliding_window": 9,
            "layer_types": KINDS,
            "logit_scale": 0.3,
        },
    ),
    "seven-heads": Tiny(
        "Cohere2",
        {
            "num_hidden_layers": 2,
            "hidden_size": 42,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "sliding_window": 11,
            "layer_types": KINDS[:1] * 2,
        },
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_tokens_are_the_judges(model: str, tmp_path: Path) -> None:
    judge = MODELS[model].save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    slides = [kind == "sliding_attention" for kind in judge.config.layer_types]
    keys = {"attention.sliding_window_pattern": slides, "logit_scale": judge.config.logit_scale}
    assert_same_logits(tmp_path, write_gguf(tmp_path, "cohere2", keys))


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("Cohere2"))
    assert [layer.attention.window for layer in made.layers] == [4096, 4096, 4096, None] * 10
    assert [layer.attention.rope is None for layer in made.layers] == [False, False, False, True] * 10
    assert made.logit_multiplier == 0.0625 and made.tie_word_embeddings
    old = {name: value for name, value in own_config("Cohere2").items() if name != "layer_types"}
    assert decoder_config(old | {"sliding_window_pattern": 4, "layer_switch": 4, "rotary_pct": 1.0}) == made


@pytest.mark.parametrize(
    "changes",
    [
        {"logit_scale": 0},
        {"layer_norm_eps": 2},
        {"use_qk_norm": True},
        {"use_parallel_block": False},
        {"layer_switch": 3},
        {"sliding_window": None},
        {"hidden_act": "gelu"},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("Cohere2"), changes)
