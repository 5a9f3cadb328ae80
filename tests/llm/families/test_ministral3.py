"""Ministral 3: queries that grow with the logarithm of the position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.llm.families.gguf_writer import by_neighbours, write_gguf
from tests.llm.families.harness import Tiny, assert_is_the_judges, assert_same_logits, own_config
from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import RopeConfig
from tinyllm.models.families.families import decoder_config
from tinyllm.models.open_model import open_model

ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "max_position_embeddings": 256,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.4,
}
KEYS: dict[str, Any] = {
    "attention.temperature_scale": 0.4,
    "rope.scaling.yarn_log_multiplier": 1.0,
    "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0,
}
TINY = Tiny("Ministral3", {"head_dim": 10, "num_hidden_layers": 2, "rope_parameters": ROPE})


def test_logits_and_tokens_are_the_judges(tmp_path: Path) -> None:
    """Four times past the original context; from both forms."""
    judge = TINY.save(tmp_path)
    for backend in backends():
        assert_is_the_judges(tmp_path, judge, backend)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "mistral3", KEYS, by_neighbours(10)))


def test_a_window_on_all_layers(tmp_path: Path) -> None:
    judge = Tiny("Ministral3", TINY.config | {"sliding_window": 9}).save(tmp_path)
    assert_is_the_judges(tmp_path, judge, "numpy")


def test_a_file_of_a_model_before_it_has_no_growth(tmp_path: Path) -> None:
    """mistral3 is what files of Mistral's models call themselves since; those of before state no temperature."""
    Tiny("Mistral", {"head_dim": 10, "num_hidden_layers": 2, "sliding_window": None}).save(tmp_path)
    assert_same_logits(tmp_path, write_gguf(tmp_path, "mistral3", change=by_neighbours(10)))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"attention.temperature_scale": -1.0}, "attention.temperature_scale: expected a number from 0"),
        ({"rope.scaling.yarn_attn_factor": 2.0}, "rope.scaling.yarn_attn_factor: expected 1 beside"),
        ({"rope.scaling.type": "none"}, "rope.scaling.type: expected yarn beside"),
        ({"attention.temperature_length": 8}, "attention.temperature_length: tinyllm does not know this key"),
    ],
    ids=str,
)
def test_keys_that_do_not_fit_are_named(keys: dict[str, Any], named: str, tmp_path: Path) -> None:
    TINY.save(tmp_path)
    with pytest.raises(CheckpointError, match=f"mistral3.{named}"):
        open_model(write_gguf(tmp_path, "mistral3", KEYS | keys, by_neighbours(10)))


def test_transformers_own_config_is_understood_whole() -> None:
    made = decoder_config(own_config("Ministral3"))
    attends = made.layers[0].attention
    assert (made.max_position, made.norm.eps, attends.window) == (262144, 1e-5, None)
    assert (attends.rope.query_log_scale, attends.rope.query_log_period) == (0.1, 16384)
    assert attends.rope.of_keys == RopeConfig(attends.rope.dims, attends.rope.theta, attends.rope.scaling)
    assert decoder_config(own_config("Ministral3", rope_parameters=None)) == made
    assert decoder_config(own_config("Ministral3", rope_parameters=None, rope_scaling=ROPE)).layers != made.layers


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"llama_4_scaling_beta": None}, "llama_4_scaling_beta: expected a number from 0"),
        ({"llama_4_scaling_beta": "0.1"}, "llama_4_scaling_beta: expected a number from 0"),
        ({"rope_type": "default"}, "rope_scaling.factor: expected no such key"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    rope = own_config("Ministral3")["rope_parameters"] | changes
    with pytest.raises(CheckpointError, match=named):
        decoder_config(own_config("Ministral3", rope_parameters=rope))


def test_growth_without_an_original_context_is_refused() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "llama_4_scaling_beta": 0.1}
    with pytest.raises(CheckpointError, match="original_max_position_embeddings: expected an integer beside"):
        decoder_config(own_config("Ministral3", rope_parameters=rope))
    assert decoder_config(own_config("Ministral3", rope_parameters=rope | {"llama_4_scaling_beta": 0.0}))
