"""A stranger's tokenizer neither hangs nor panics, and makes no text longer than can be held."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models

from tests.models.kinds import KINDS, SPM_KEYS, gguf, trained
from tinyllm.errors import CheckpointError, InvalidInputError
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.tokenizer_bounds import LONGEST_TEXT
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder

SECONDS = 5


def written(folder: Path, **parts: Any) -> Tokenizer:
    """A tokenizer of four tokens, with parts of its file as they are given."""
    made = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2, "\u0120": 3}, []))
    made.decoder = decoders.ByteLevel()
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str()) | parts))
    return tokenizer_from_folder(folder, {}, {})


def normalizer(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def replace(found: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: found}, "content": content}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def added(content: str, index: int = 9) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": index, "content": content, **flags}


DOUBLE = replace("a", "aa")
BPE = {"type": "BPE", "vocab": {"a": 0, "b": 5}, "merges": [["a", "b"]]}
WORDS = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "continuing_subword_prefix": "##"}
TEXT, TOKEN = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 0}}


def around(*pieces: dict[str, Any], ids: int = 0) -> dict[str, Any]:
    tokens = {"x": {"id": "x", "ids": [0] * ids, "tokens": ["x"] * ids}} if ids else {}
    return {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": tokens}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"normalizer": normalizer(*[DOUBLE] * 40)}, "at most 32 steps, got 40"),
    ({"normalizer": normalizer(*[DOUBLE] * 30)}, "at most 4096 times longer"),
    ({"normalizer": normalizer(normalizer(*[DOUBLE] * 8), normalizer(*[DOUBLE] * 8))}, "at most 4096 times longer"),
    ({"normalizer": normalizer(*[replace(".", "aa", "Regex")] * 20)}, "at most 4096 times longer"),
    ({"normalizer": normalizer(*[{"type": "Prepend", "prepend": "x" * 100}] * 3)}, "at most 4096 times longer"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "Cannot parse precompiled_charsmap"),
    ({"normalizer": normalizer(*[DOUBLE] * 30), "added_tokens": [added("a")]}, "at most 4096 times longer"),
    (
        {"normalizer": normalizer(*[DOUBLE] * 12), "added_tokens": [added("a" * 3000)]},
        "added_tokens: expected at most 4194304 characters together, got 3000, and up to 12291000",
    ),
    ({"pre_tokenizer": split("(a+)+b")}, "takes any text, got: Onig: Regex search error"),
    ({"pre_tokenizer": split("( +)+[^ ]x")}, "takes any text, got: Onig: Regex search error"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("a")] * 33}}, "at most 32 steps, got 33"),
    ({"model": WORDS | {"max_input_chars_per_word": 2**40}}, "max_input_chars_per_word: expected at most 1000"),
    ({"model": {"type": "Unigram", "vocab": [["a" * 999, 0.0]]}}, "pieces of at most 256 characters, got one of 999"),
    ({"model": BPE}, "expected a tokenizer of the tokenizers package, got: range end index"),
    ({"post_processor": around(TOKEN, TEXT)}, "post_processor: no entry found for key"),
    ({"post_processor": around(*[TEXT] * 9000)}, "post_processor: expected a template with one text, got 9000"),
    ({"post_processor": around(TOKEN, TEXT, ids=1001)}, "at most 1000 tokens around a text, got 1001"),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED)
def test_what_expands_hangs_or_panics_is_refused_by_the_name_of_its_file(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    began = time.thread_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        written(tmp_path, **parts)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert "\n" not in str(caught.value) and time.thread_time() - began < SECONDS


def test_a_file_of_more_values_than_any_real_one_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"[" + b"[]," * 4_000_001)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected at most 8000000 values, got 8000003"):
        tokenizer_from_folder(tmp_path, {}, {})


def test_many_tokens_of_the_settings_are_added_at_once(tmp_path: Path) -> None:
    written(tmp_path)
    listed = {str(index): {"content": f"<{index}>"} for index in range(4, 8004)}
    settings = {"added_tokens_decoder": listed, "additional_special_tokens": [f"<|{index}|>" for index in range(4000)]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    began = time.thread_time()
    made = tokenizer_from_folder(tmp_path, {}, {})
    assert time.thread_time() - began < 2 and made.encode("<8003><|0|><|3999|>") == [8003, 8004, 12_003]


def test_an_id_of_thousands_of_digits_is_none(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"9" * 5000: "x"}}))
    with pytest.raises(CheckpointError, match=r"added_tokens_decoder: expected a token id, got '999") as caught:
        tokenizer_from_folder(tmp_path, {}, {})
    assert len(str(caught.value)) < 500


def test_a_panic_over_a_text_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    made = written(tmp_path, pre_tokenizer={"type": "FixedLength", "length": 0})
    with pytest.raises(InvalidInputError, match=r"tokenizer.json: this text cannot be encoded: chunk size"):
        made.encode("abc")


def test_texts_are_bounded_before_and_after_they_are_normalized(tmp_path: Path) -> None:
    made = written(tmp_path, normalizer=normalizer(*[DOUBLE] * 10))
    assert len(made.encode("ab" * 100)) == 102_500
    assert len(made.encode("b" * 100_000)) == 100_000  # which do not become more
    for text in ("a" * 10_000, "b" * (LONGEST_TEXT + 1)):
        with pytest.raises(InvalidInputError, match="text: expected at most 4194304 characters, normalized"):
            made.encode(text)


def test_sentencepieces_map_of_characters_counts_by_its_longest_text(tmp_path: Path) -> None:
    corpus = ["he had a cab, dad", "bead head"] * 5
    model = trained(corpus, model_type="unigram", normalization_rule_name="nmt_nfkc")
    (tmp_path / "tokenizer.model").write_bytes(model)
    assert tokenizer_from_folder(tmp_path, {}, {}).encode("head")


def test_a_piece_that_would_be_cut_for_hours_is_refused(tmp_path: Path) -> None:
    tokens = [*SPM_KEYS["tokenizer.ggml.tokens"][:-1], "a" * 1_000_000]
    with pytest.raises(CheckpointError, match=r"m\.gguf: .*pieces so long"):
        gguf(SPM_KEYS | {"tokenizer.ggml.tokens": tokens})(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_is_read_encodes_a_long_text(kind: str, tmp_path: Path) -> None:
    assert KINDS[kind](tmp_path).encode("he had a cab " * 10_000)
