"""What a GGUF file of a folder says besides tensors: how to sample, real numbers as floats, and what is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.llm.families.harness import Tiny
from tests.models.kinds import byte_level
from tests.models.quantize.tiny import SIZES
from tinyllm.errors import CheckpointError
from tinyllm.models.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllm.models.checkpoints.gguf_header import GgufDraft
from tinyllm.models.decoder.config import AttentionConfig
from tinyllm.models.families.families import FAMILIES
from tinyllm.models.families.gguf_keys import gguf_keys
from tinyllm.models.open_model import open_model
from tinyllm.models.quantize.gguf_form import said_in_gguf
from tinyllm.models.quantize.plan import Plan
from tinyllm.models.quantize.run import quantize
from tinyllm.models.text.gguf_tokenizer import tokenizer_to_gguf
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder

LLAMA = Tiny("Llama", SIZES | {"vocab_size": 350})
NO_TOKENIZER = "no tokenizer, as the folder has none: llama.cpp loads no such file"
PREFIX = "general.sampling."


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder without a tokenizer."""
    LLAMA.save(folder := tmp_path / "source")
    (folder / "generation_config.json").unlink()
    return folder


def written(source: Path, **settings: Any) -> tuple[Path, tuple[str, ...]]:
    """The file of a folder that asks for this sampling, and the notes on it."""
    (source / "generation_config.json").write_text(json.dumps(settings))
    made = quantize(source, out := source.with_name("out.gguf"), "Q8_0", force=True)
    return out, made.notes


def sampling(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields.values()
    return {field.name.removeprefix(PREFIX): field.contents() for field in fields if field.name.startswith(PREFIX)}


def test_integers_of_a_config_are_floats_where_numbers_are_real(tmp_path: Path) -> None:
    """llama.cpp refuses a key of another kind."""
    rope = {"rope_theta": 500, "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1}
    yarn = {"rope_type": "yarn", "attention_factor": 2, **rope}
    for name, extra in (("factor", yarn), ("multiplier", yarn | {"mscale": 1, "mscale_all_dim": 1})):
        if name == "multiplier":
            del extra["attention_factor"]
        Tiny("Llama", SIZES).save(source := tmp_path / name)
        path = source / "config.json"
        config = {k: v for k, v in json.loads(path.read_text()).items() if k != "rope_parameters"}
        path.write_text(json.dumps(config | {"rope_parameters": extra, "rms_norm_eps": 1}))
        quantize(source, out := tmp_path / f"{name}.gguf", "Q8_0")
        kinds = {field.name.removeprefix("llama."): field.types[0].name for field in _fields(out)}
        real = re.compile(r"rope\.scaling\.(?!type|original)|scale|epsilon|freq_base|softcapping")
        assert {kind for key, kind in kinds.items() if real.search(key)} == {"FLOAT32"}
        said = "yarn_log_multiplier" if name == "multiplier" else "attn_factor"
        wanted = {"rope.freq_base", "rope.scaling.yarn_beta_slow", f"rope.scaling.{said}"}
        assert wanted <= kinds.keys() and kinds["block_count"] == "UINT32"


def _fields(path: Path) -> Iterator[Any]:
    return (field for field in gguf.GGUFReader(path).fields.values() if field.name.startswith("llama."))


def test_integers_of_a_plugins_config_are_floats_as_well(source: Path) -> None:
    """Nothing converts what a plugin's family makes."""
    config = open_model(source).config
    attends = config.layers[0].attention
    assert isinstance(attends, AttentionConfig) and attends.rope
    whole = replace(config.layers[0], attention=replace(attends, scale=1, rope=replace(attends.rope, theta=500)))
    made = gguf_keys(replace(config, layers=(whole,), embedding_multiplier=2, logit_softcap=30))
    names = ("attention.scale", "rope.freq_base", "embedding_scale", "final_logit_softcapping")
    assert [type(made[name]) for name in names] == [float] * 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_sample": True}, {"temp": 1}),
        ({"do_sample": True, "temperature": 0.5}, {"temp": 0.5}),
        ({"do_sample": False, "temperature": 0.5}, {"temp": 0}),
        ({"temperature": None, "top_p": 1}, {"top_p": 1}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"repetition_penalty": 1.5}, {"penalty_repeat": 1.5, "penalty_last_n": -1}),
        ({"repetition_penalty": 1}, {"penalty_repeat": 1}),
    ],
)
def test_how_to_sample_is_said(settings: Mapping[str, Any], said: Mapping[str, Any], source: Path) -> None:
    """Sampling without a temperature is at 1, and a penalty is of all tokens, where llama.cpp takes the last 64."""
    out, notes = written(source, **settings)
    assert sampling(out) == said and notes == (NO_TOKENIZER,)
    read, _ = GgufCheckpoint(out, FAMILIES).generation_config()
    assert not any(name.startswith(PREFIX) for name in read)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", "warm", "a number, got 'warm'"),
        ("temperature", 1e300, r"a number, got 1e\+300"),
        ("top_p", True, "a number, got True"),
        ("top_k", 2.5, "an integer, got 2.5"),
        ("top_k", 2**40, "an integer, got 1099511627776"),
        ("do_sample", 1, "true or false, got 1"),
    ],
)
def test_a_setting_of_another_kind_is_an_error(field: str, value: Any, expected: str, source: Path) -> None:
    """Before anything is written."""
    with pytest.raises(CheckpointError, match=rf"source/generation_config\.json: {field}: expected {expected}"):
        written(source, **{field: value})
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def test_settings_that_are_lost_are_named(source: Path) -> None:
    """Those that change something and that GGUF has no name for."""
    lost = {"stop_strings": ["\n"], "max_new_tokens": 100, "no_repeat_ngram_size": 3}
    harmless = {"num_beams": 1, "max_length": 10**6, "eos_token_id": 2, "transformers_version": "5"}
    _, notes = written(source, top_k=4, do_sample=True, **lost, **harmless)
    told = "GGUF has no key for these settings of generation_config.json: stop_strings, max_new_tokens, "
    assert notes == (f"{told}no_repeat_ngram_size", NO_TOKENIZER)


def test_ends_past_the_third_and_blanks_beside_tokens_are_noted(source: Path) -> None:
    """A file cannot say that a token takes the blanks beside it, and has keys for three ends."""
    byte_level(source)
    state = json.loads((source / "tokenizer.json").read_text())
    most = max(token["id"] for token in state["added_tokens"])
    ends = [f"<e{number}>" for number in range(5)]
    added = state["added_tokens"][-1] | {"rstrip": True, "special": True}
    state["added_tokens"] += [added | {"id": most + 1 + n, "content": token} for n, token in enumerate(ends)]
    (source / "tokenizer.json").write_text(json.dumps(state))
    ids = [most + 1 + number for number in range(5)]
    _, notes = written(source, eos_token_id=ids)
    blanks = "blanks beside '<e0>' become other tokens: GGUF cannot say what this tokenizer makes of them"
    without = [2, *ids[3:]]  # the first is of config.json
    assert notes == (blanks, f"a GGUF file names at most 3 tokens that end an answer: without {without}")


def test_an_unknown_token_may_be_an_added_one(tmp_path: Path) -> None:
    """Its model's vocabulary does not have it then."""
    byte_level(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    state["model"]["unk_token"] = "<s>"
    assert "<s>" not in state["model"]["vocab"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    made = tokenizer_from_folder(tmp_path, {}, {})
    metadata, _ = tokenizer_to_gguf(made, None, made.vocab_size, "model")
    unknown = metadata["tokenizer.ggml.unknown_token_id"]
    assert metadata["tokenizer.ggml.tokens"][unknown] == "<s>"
    assert tokenizer_from_gguf(GgufDraft(tmp_path, metadata, {})).encode("a</s>") == made.encode("a</s>")


def test_an_error_of_what_is_read_back_names_the_model(tmp_path: Path) -> None:
    """A row without a token gets a name that here is a token's."""
    byte_level(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    most = max(token["id"] for token in state["added_tokens"])
    state["added_tokens"].append(state["added_tokens"][-1] | {"id": most + 1, "content": f"[PAD{most + 2}]"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"^some/model: tokenizer\.ggml\.tokens: expected each token once"):
        tokenizer_to_gguf(tokenizer_from_folder(tmp_path, {}, {}), None, most + 3, "some/model")


def test_keys_of_a_family_that_fail_are_its_own(source: Path) -> None:
    """The error names the architecture, as that of its other code does."""

    def broken(config: Any) -> dict[str, Any]:
        raise ZeroDivisionError("mine")

    (llama,) = [family for family in FAMILIES if family.name == "llama"]
    assert llama.gguf is not None
    families = [replace(llama, gguf=replace(llama.gguf, keys=broken))]
    opened = open_model(source, families)
    told = "architecture 'llama': gguf.keys failed: ZeroDivisionError: mine"
    with pytest.raises(CheckpointError, match=told):
        said_in_gguf(opened, families, Plan(opened, families).shapes)
