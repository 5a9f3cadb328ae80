"""Granite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.families.families import decoder_config

MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.2,
    "logits_scaling": 4.0,
}
KEYS = ("embedding_scale", "residual_scale", "attention.scale", "logit_scale")
TINY = Tiny("Granite", MULTIPLIERS | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True})


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    keys = dict(zip(KEYS, MULTIPLIERS.values(), strict=True))
    assert_same_logits(tmp_path, write_gguf(tmp_path, "granite", keys, by_neighbours(8)))


def test_fields_are_understood_or_named() -> None:
    """transformers' own config has a scale of scores of 1, which is not that of the heads."""
    assert decoder_config(own_config("Granite")).layers[0].attention.scale == 1
    for field in MULTIPLIERS:
        with pytest.raises(CheckpointError, match=f"config: {field}: expected a number above 0"):
            decoder_config(own_config("Granite", **{field: 0}))
