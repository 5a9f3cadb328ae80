"""Fields that a `config.json` leaves out."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import Any

import pytest

from tinyllm.errors import CheckpointError
from tinyllm.models.decoder.config import DecoderConfig
from tinyllm.models.families.families import FAMILIES, decoder_config

transformers = pytest.importorskip("transformers")
MODEL_TYPES = sorted(name for family in FAMILIES for name in family.model_types)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_field_that_is_left_out_is_as_transformers_has_it_or_asked_for(model_type: str) -> None:
    """Files have often been written without what is a class's default."""
    whole = transformers.AutoConfig.for_model(model_type).to_dict()
    text = whole.get("text_config")
    different = []
    for field in sorted({*(whole if text is None else text)} - {"model_type"}):
        config = _without(whole, field) if text is None else whole | {"text_config": _without(text, field)}
        theirs = _as_transformers_reads(config)
        with contextlib.suppress(CheckpointError):
            ours = decoder_config(config)
            different += [field] * (_without_ends(ours) != _without_ends(decoder_config(theirs)))
    assert different == []


def _as_transformers_reads(config: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = transformers.AutoConfig.for_model(**copy.deepcopy(config)).to_dict()
    return read


def _without_ends(config: DecoderConfig) -> DecoderConfig:
    """The tokenizer and the template know them as well."""
    return replace(config, bos_token_id=None, eos_token_ids=())


def _without(config: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != field}


def test_the_sparse_config_of_a_published_model_is_understood() -> None:
    """As that of Gemma 3 4B, which says what is not its class's default, and no more."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    sparse = {"model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106], "mm_tokens_per_image": 256}
    made = decoder_config(sparse)
    assert _without_ends(made) == _without_ends(decoder_config(_as_transformers_reads(sparse)))
    assert made.eos_token_ids == (1, 106)
    assert {layer.attention.head_dim for layer in made.layers} == {256}
