"""Vocabularies of byte ranks, tekken's and tiktoken's: merged as their definition says, and refused by name."""

from __future__ import annotations

import base64
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.errors import CheckpointError
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder

WORDS = ["he", "ll", "hell", "hello", " h", "==", "===", "====", "é", "\u65e5", "bc", "ab", "12", "  "]
TOKENS = [*(bytes([byte]) for byte in range(256)), "\u65e5".encode()[:2], *(word.encode() for word in WORDS)]
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = re.compile(
    r"[^\r\nA-Za-zé\u65e50-9]?[A-Za-zé\u65e5]+|[0-9]| ?[^\sA-Za-zé\u65e50-9]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The same for the letters of the tests."""
SPECIALS = ["<unk>", "<s>", "</s>", "[INST]"]
PARTS = ["abc", "h", "he", "ll", "lo", "=", "===", "é", "日", "1", "2", " ", "\n", "/", "🙂", "a", "b"]


def ranked(text: str, first: int = 0) -> list[int]:
    """The definition: of neighbours, those whose whole has the lowest rank are joined, the first ones first."""
    ranks, ids = {token: rank for rank, token in enumerate(TOKENS)}, []
    for cut in CUTS.findall(text):
        parts = [bytes([byte]) for byte in cut.encode()]
        if cut.encode() in ranks:
            parts = [cut.encode()]
        while True:
            made = [(ranks[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
            if not made:
                break
            at = min(made)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [first + ranks[part] for part in parts]
    return ids


def tekken(**changes: Any) -> dict[str, Any]:
    config = {"pattern": PATTERN, "default_vocab_size": len(TOKENS) + 6, "default_num_special_tokens": 6}
    vocab = [{"rank": n, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for n, t in enumerate(TOKENS)]
    unused = {"rank": len(TOKENS), "token_bytes": base64.b64encode(b"hello hello").decode(), "token_str": None}
    special = [{"rank": n, "token_str": text, "is_control": text != "[INST]"} for n, text in enumerate(SPECIALS)]
    whole = {"config": {**config, "version": "v13"}, "vocab": [*vocab, unused], "special_tokens": special}
    whole["config"] |= changes.pop("config", {})
    return whole | changes


def tekken_folder(folder: Path, **changes: Any) -> Path:
    (folder / "tekken.json").write_text(json.dumps(tekken(**changes)))
    return folder


def tiktoken_folder(folder: Path, name: str = "vocabulary.tiktoken", lines: str | None = None, **settings: Any) -> Path:
    written = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(TOKENS))
    (folder / name).write_text(written if lines is None else lines)
    size = len(TOKENS)
    added = {str(size): {"content": "[gMASK]", "special": True}, str(size + 1): {"content": "<sop>", "special": True}}
    added[str(size + 9)] = {"content": "<|user|>", "special": True}
    settings = {
        "tokenizer_class": "ChatGLM4Tokenizer",
        "added_tokens_decoder": added,
        "eos_token": "<|user|>",
    } | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("tekken", "tiktoken")}
    tekken_folder(folders["tekken"])
    tiktoken_folder(folders["tiktoken"], "tokenizer.model")
    return {name: tokenizer_from_folder(folder, {}, {}) for name, folder in folders.items()}


@given(st.lists(st.sampled_from(PARTS), max_size=20))
def test_texts_are_merged_by_rank(made: dict[str, Any], parts: list[str]) -> None:
    text = "".join(parts)
    ids = ranked(text, first=6)
    assert made["tekken"].encode(text) == ids
    assert made["tekken"].decode(ids) == text
    lone_digits = re.sub(r"([0-9])(?=[0-9])", r"\1 ", text).replace("/", "")  # where the pattern of GLM-4 is the same
    assert made["tiktoken"].encode(lone_digits) == ranked(lone_digits)


def test_special_tokens_come_first_in_tekken(made: dict[str, Any]) -> None:
    tokenizer = made["tekken"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.vocab_size) == (1, (2,), len(TOKENS) + 6)
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<SPECIAL_4>": 4, "<SPECIAL_5>": 5}
    assert tokenizer.encode("[INST]hello", add_special_tokens=True) == [1, 3, *ranked("hello", first=6)]
    assert tokenizer.decode([1, 3, *ranked("hello", first=6), 2]) == "[INST]hello"


def test_files_that_list_no_special_tokens_have_the_first_ones(tmp_path: Path) -> None:
    config = {"version": "v3", "default_vocab_size": len(TOKENS) + 12, "default_num_special_tokens": 12}
    tokenizer = tokenizer_from_folder(tekken_folder(tmp_path, special_tokens=None, config=config), {}, {})
    assert tokenizer.encode("[TOOL_CALLS]a") == [9, *ranked("a", first=12)]


def test_special_tokens_of_tiktoken_are_those_of_the_settings(made: dict[str, Any]) -> None:
    tokenizer, size = made["tiktoken"], len(TOKENS)
    assert tokenizer.eos_token_ids == (size + 9,)
    assert tokenizer.encode("a<|user|>", add_special_tokens=True) == [size, size + 1, *ranked("a"), size + 9]
    assert tokenizer.decode([size, *ranked("hello"), size + 9]) == "hello"


BAD_TEKKEN: list[tuple[dict[str, Any], str]] = [
    ({"config": {"pattern": None}}, "config.pattern"),
    ({"config": {"pattern": r"\s+$|."}}, "config.pattern"),
    ({"config": {"pattern": r"\p{N}{1,3}+|."}}, "config.pattern"),
    ({"config": {"pattern": "("}}, "expected a vocabulary"),
    ({"config": {"default_vocab_size": "many"}}, "config.default_vocab_size"),
    ({"config": {"default_vocab_size": 10**6}}, "vocab: expected at least"),
    ({"config": {"default_num_special_tokens": 2}}, "special_tokens"),
    ({"special_tokens": None}, "special_tokens: .*v13"),
    ({"special_tokens": [{"rank": 0, "token_str": "x"}, {"rank": 1, "token_str": "x"}]}, "special_tokens: .*twice"),
    ({"vocab": 3}, "vocab"),
    ({"vocab": [{"rank": 1, "token_bytes": "AA=="}] * 300}, "vocab.0"),
    ({"vocab": [{"rank": n, "token_bytes": "?"} for n in range(300)]}, "vocab.0.token_bytes"),
    ({"vocab": [{"rank": n, "token_bytes": "AA=="} for n in range(300)]}, "vocab: .*twice"),
    ({"config": {"default_vocab_size": 106}}, "no token for the byte 0x64"),
]


@pytest.mark.parametrize(("changes", "named"), BAD_TEKKEN)
def test_tekken_files_that_are_not_understood(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=rf"tekken.json: .*{named}|tekken.json: {named}"):
        tokenizer_from_folder(tekken_folder(tmp_path, **changes), {}, {})


BAD_TIKTOKEN: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer_class": "Other"}, "tokenizer_class: expected one of QWenTokenizer.*Other"),
    ({"tokenizer_class": None}, "tokenizer_class"),
    ({"added_tokens_decoder": None}, "added_tokens_decoder"),
    ({"added_tokens_decoder": {"3": {"content": "<x>"}}}, "added_tokens_decoder: expected other ids"),
    ({"added_tokens_decoder": {"999": {"content": "<x>"}}}, r"expected \[gMASK\]"),
    ({"added_tokens_decoder": {"x": {"content": "<x>"}}}, "added_tokens_decoder"),
    ({"lines": "AA== 0\nAQ==\n"}, "line 2"),
    ({"lines": "AA== 0\nAA== 1\n"}, "line 2: .*twice"),
    ({"lines": "AA== 0\nAQ== 0\n"}, "ranks that differ"),
    ({"lines": "AA== 0\nAQ== 1\n"}, "no token for the byte 0x02"),
    ({"lines": "A 0\n"}, "line 1"),
]


@pytest.mark.parametrize(("changes", "named"), BAD_TIKTOKEN)
def test_tiktoken_files_that_are_not_understood(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        tokenizer_from_folder(tiktoken_folder(tmp_path, **changes), {}, {})
