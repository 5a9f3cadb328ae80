"""A model's own sampling settings, from its files to its replies; transformers judges by the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from tests.catalogue.harness import registry
from tests.llm.test_families import checkpoint
from tests.llm.test_heads import reread, state
from tests.models.conftest import write_gguf
from tinyllm.errors import CheckpointError, SamplingWarning
from tinyllm.llm import LLM, load

torch = pytest.importorskip("torch")

IDS = list(range(5, 25))


def folder(path: Path, generation: dict[str, Any] | None, **config: Any) -> LLM:
    """A tiny model with this `generation_config.json` (None: without one), and bytes for tokens."""
    checkpoint("llama", path)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:97]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({text: token for token, text in enumerate(alphabet)}, []))
    made.decoder = tokenizers.decoders.ByteLevel()
    made.save(str(path / "tokenizer.json"))
    state(path, eos_token_id=None, **config)
    (path / "generation_config.json").unlink()
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return load(path, "numpy", registry=registry())


@pytest.mark.parametrize(
    "generation",
    [
        {"do_sample": False, "repetition_penalty": 1.8},
        {"do_sample": True, "temperature": 0.9, "top_k": 1, "repetition_penalty": 1.3},
        {"do_sample": False, "temperature": 5.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["generation_config", "config"])
def test_replies_are_those_of_transformers(generation: dict[str, Any], where: str, tmp_path: Path) -> None:
    """Where nobody says anything. Old models have the settings in their config."""
    llm = folder(tmp_path, None, **generation) if where == "config" else folder(tmp_path, generation)
    wanted = reread(tmp_path).generate(torch.tensor([IDS]), max_new_tokens=12, pad_token_id=0)[0, len(IDS) :].tolist()
    assert llm.generate(IDS, max_tokens=12).token_ids == wanted
    assert [piece.token_ids[0] for piece in llm.stream(IDS, max_tokens=12)] == wanted


def test_what_is_said_counts_and_the_rest_is_the_models(tmp_path: Path) -> None:
    llm = folder(tmp_path, {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1})
    assert llm.sampling_defaults.source == "generation_config.json"
    params = llm.sampling({"temperature": 0.0, "top_k": None})
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.0, 0.9, None, 0.1)
    params = llm.sampling({})
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.6, 0.9, 20, 0.1)


def test_without_a_word_replies_are_greedy(tmp_path: Path) -> None:
    llm = folder(tmp_path, {"bos_token_id": 1, "transformers_version": "4.40.0"})
    assert llm.sampling({}).temperature == 0 and not llm.sampling_defaults.values


def test_what_is_not_done_is_named_when_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.warns(SamplingWarning, match=r"^generation_config\.json: num_beams 4: not done"):
        folder(tmp_path, {"num_beams": 4})


def test_a_value_out_of_range_is_an_error_when_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json: top_p: expected"):
        folder(tmp_path, {"top_p": 7})


GGUF: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"temp": 0.7, "top_k": 20, "top_p": 0.8}, {"temperature": 0.7, "top_k": 20, "top_p": 0.8}, []),
    ({"min_p": 0.05, "penalty_repeat": 1.1}, {"min_p": 0.05, "repetition_penalty": 1.1}, []),
    ({"temp": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "penalty_repeat": 1.0}, {"temperature": 0}, []),
    ({"mirostat": 0, "mirostat_tau": 5.0, "xtc_probability": 0.0, "xtc_threshold": 0.1}, {}, []),
    ({"mirostat": 2, "mirostat_tau": 5.0}, {}, ["mirostat", "mirostat_tau"]),
    ({"xtc_probability": 0.5}, {}, ["xtc_probability"]),
    ({"penalty_repeat": 1.1, "penalty_last_n": 64}, {"repetition_penalty": 1.1}, ["penalty_last_n"]),
    ({"penalty_repeat": 1.0, "penalty_last_n": 64}, {}, []),
    ({"penalty_repeat": 1.1, "penalty_last_n": 0}, {}, []),
    ({"sequence": "kpt"}, {}, ["sequence"]),
]


@pytest.mark.parametrize(("keys", "values", "left_out"), GGUF, ids=lambda value: ",".join(value))
@pytest.mark.filterwarnings("ignore::tinyllm.errors.SamplingWarning")
def test_a_gguf_carries_them_as_well(
    keys: dict[str, Any], values: dict[str, Any], left_out: list[str], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", keys={f"general.sampling.{key}": value for key, value in keys.items()})
    found = load(path, "numpy", registry=registry()).sampling_defaults
    assert found.values == values and (found.source == "m.gguf" or not values)
    assert list(found.left_out) == [f"general.sampling.{key}" for key in left_out]
