"""What a model's files say of its sampling: taken, left be where it asks for nothing, or named."""

from __future__ import annotations

from typing import Any

import pytest

from tinyllm.engine.sampling.defaults import sampling_defaults
from tinyllm.errors import CheckpointError

transformers = pytest.importorskip("transformers")

SOURCE = "generation_config.json"
NEUTRAL: dict[str, Any] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "typical_p": 1.0,
    "no_repeat_ngram_size": 0,
    "suppress_tokens": [],
    "max_length": 4096,
    "length_penalty": 1.0,
}


def read(**config: Any) -> Any:
    """Defaults of a model with a context of 2,048 tokens."""
    return sampling_defaults(config, SOURCE, 2048)


def test_every_setting_that_is_done_is_taken() -> None:
    said = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05}
    assert read(do_sample=True, **said).values == said
    assert read(stop_strings=["a", "b"], max_new_tokens=99).values == {"stop": ["a", "b"], "max_tokens": 99}


@pytest.mark.parametrize(
    ("config", "temperature"),
    [
        ({"do_sample": False}, 0.0),
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": None, "temperature": None}, None),
        ({}, None),
    ],
)
def test_greedy_where_the_file_says_so(config: dict[str, Any], temperature: float | None) -> None:
    assert read(**config).values.get("temperature") == temperature


@pytest.mark.parametrize("name", NEUTRAL)
def test_values_that_ask_for_nothing_say_nothing(name: str) -> None:
    found = read(**{name: NEUTRAL[name]})
    assert (found.values, found.left_out, found.warning) == ({}, {}, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 4),
        ("typical_p", 0.9),
        ("no_repeat_ngram_size", 3),
        ("suppress_tokens", [1]),
        ("forced_eos_token_id", 0),
        ("max_length", 64),
        ("min_new_tokens", 5),
        ("guidance_scale", 1.5),
        ("general.sampling.mirostat", 2),
        ("a_new_field", 1),
    ],
)
def test_what_is_not_done_is_named_in_one_line(name: str, value: Any) -> None:
    found = read(**{name: value, "top_k": 5})
    assert found.values == {"top_k": 5} and found.left_out == {name: value}
    assert found.warning == f"{SOURCE}: {name} {value!r}: not done by tinyllm, replies are made without"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": -1}, "temperature: expected"),
        ({"top_p": 3}, "top_p: expected"),
        ({"top_k": "many"}, "top_k: expected"),
        ({"do_sample": "yes"}, "do_sample: expected true or false, got 'yes'"),
        ({"stop_strings": [1]}, "stop: expected"),
    ],
)
def test_a_value_that_makes_no_sense_is_an_error_with_its_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{SOURCE}: {message}"):
        read(**config)


def test_every_field_of_transformers_that_is_unset_says_nothing() -> None:
    """Also those of its newest version; so does what it writes for a model that says only where replies end."""
    assert read(**transformers.GenerationConfig().to_dict()).left_out == {}
    written = transformers.GenerationConfig(eos_token_id=[2, 7], pad_token_id=0, bos_token_id=1, use_cache=True)
    found = read(**written.to_dict())
    assert (found.values, found.left_out) == ({}, {})
