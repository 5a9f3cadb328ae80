"""Cohere's Command R."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_refused, assert_same_logits, own_config
from tinyllm.models.families.families import decoder_config

TINY = Tiny("Cohere", {"num_hidden_layers": 2, "logit_scale": 0.3, "attention_bias": True})


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "command-r", {"logit_scale": 0.3}))


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("Cohere"))
    attends = made.layers[0].attention
    assert (attends.rope.theta, attends.rope.traditional, attends.num_kv_heads) == (500000.0, True, 64)
    assert (made.logit_multiplier, made.norm.kind, made.tie_word_embeddings) == (0.0625, "layer", True)


@pytest.mark.parametrize("changes", [{"use_qk_norm": True}, {"logit_scale": 0}, {"hidden_act": "gelu"}], ids=str)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any]) -> None:
    assert_refused(own_config("Cohere"), changes)
