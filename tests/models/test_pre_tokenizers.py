"""Pre-tokenizers of GGUF files: cut as transformers does for the same names and models, and by hand for the rest."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from tests.models.conftest import write_gguf
from tests.models.kinds import GEMMA4_KEYS, gguf
from tinyllm.models.checkpoints.gguf import GgufFile
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf
from tinyllm.models.text.pre_tokenizers import PRE_TOKENIZERS
from tinyllm.models.text.token_text import byte_level
from tinyllm.models.text.tokenizer import Tokenizer

PARTS = [
    "a",
    "Bc",
    "'ll",
    "'S",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "1",
    "234",
    "\u00b2",
    ".",
    "!?",
    "$",
    "+",
    "/",
    "_",
    "\u00e9",
]
PARTS += [
    "e\u0301",
    "\u0394x",
    "\u6f22",
    "\u3072",
    "\u30ab",
    "\ud55c",
    "\u0939\u093f",
    "\u0e01\u0e34",
    "\u3002",
    "\uff01",
    "\u200b",
    "\U0001f642",
]
KNOWN = ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "dbrx", "smaug-bpe"]
KNOWN += ["tekken", "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "qwen35"]
KNOWN += ["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=14).map("".join)


def cut(pre: Any, text: str) -> list[str]:
    """The pieces of a text, as text."""
    return [b"".join(map(byte_level, piece)).decode(errors="replace") for piece, _ in pre.pre_tokenize_str(text)]


@pytest.mark.parametrize("name", KNOWN)
@given(text=TEXTS)
@settings(max_examples=40, deadline=None)
def test_names_that_transformers_knows_cut_alike(name: str, text: str) -> None:
    theirs = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping").GGUF_PRE_TOKENIZER_SPLITS
    split = pre_tokenizers.Split(Regex(theirs[name]), "isolated")
    judge = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    assert cut(PRE_TOKENIZERS[name].build(), text) == cut(judge, text)


@pytest.mark.parametrize(
    ("name", "model"),
    [("qwen2", "Qwen2"), ("qwen35", "Qwen3_5"), ("command-r", "Cohere"), ("gpt-2", "GPT2"), ("olmo", "GPTNeoX")],
)
def test_models_that_transformers_knows_cut_alike(name: str, model: str) -> None:
    import transformers

    theirs = getattr(transformers, f"{model}Tokenizer")()._tokenizer
    ours = PRE_TOKENIZERS[name]
    assert ours.nfc == (theirs.normalizer is not None and theirs.normalizer.normalize_str("e\u0301") == "\u00e9")

    @given(text=TEXTS)
    @settings(max_examples=60, deadline=None)
    def alike(text: str) -> None:
        assert cut(ours.build(), text) == cut(theirs.pre_tokenizer, text)

    alike()


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("deepseek-v3", "Ab 1234,cd\n漢字かx", ["Ab", " ", "123", "4", ",cd", "\n", "漢字か", "x"]),
        ("deepseek-llm", "Ab 12漢字, x\n", ["Ab", " ", "1", "2", "漢字", ",", " x", "\n"]),
        ("deepseek-coder", "ab 12_漢字\n", ["ab", " ", "1", "2", "_", "漢字", "\n"]),
        ("tekken", "fooBar 12's", ["foo", "Bar", " ", "1", "2", "'s"]),
        ("gpt-4o", "fooBar's 1234/\n", ["foo", "Bar's", " ", "123", "4", "/\n"]),
        ("kimi-k2", "fooBar漢字x 1234", ["foo", "Bar", "漢字", "x", " ", "123", "4"]),
        ("falcon", "ab, 12345", ["ab", ",", " ", "123", "45"]),
        ("bloom", "ab cd. 12", ["ab", " cd", ".", " 12"]),
        ("viking", "ab cd. 12", ["ab", " cd", ".", " ", "1", "2"]),
        ("tiny_aya", "12345 aB", ["12", "345", " a", "B"]),
        ("afmoe", "12345x 漢", ["12", "345", "x", " ", "漢"]),
        ("superbpe", "ab 12345", ["ab ", "12", "345"]),
        ("minicpm5", "12345 ab", ["123", "45", " ab"]),
        ("jais-2", "a     b", ["a", "    ", " b"]),
        ("bailingmoe", "it'd 12\n\n", ["it", "'d", " ", "1", "2", "\n\n"]),
        ("seed-coder", "a ;\n", ["a", " ;", "\n"]),
        ("ufakzeka", "a'da 1", ["a", "'da", " ", "1"]),
        ("exaone-moe", "ab cd 1", ["ab cd", " ", "1"]),
        ("laguna", "a \n b", ["a", " ", "\n", " b"]),
        ("spark2_5", "a.\n\n123", ["a", ".", "\n", "\n", "1", "2", "3"]),
        ("youtu", "한글ab 漢字", ["한글", "ab", " ", "漢字"]),
        ("chameleon", "a  b1.", ["a", "  ", "b", "1", "."]),
    ],
)
def test_cuts_by_hand(name: str, text: str, pieces: list[str]) -> None:
    assert cut(PRE_TOKENIZERS[name].build(), text) == pieces


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def named(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokenizer]:
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", pre=request.param)
    return request.param, tokenizer_from_gguf(GgufFile(path))


@given(text=TEXTS)
@settings(max_examples=15, deadline=None)
def test_no_name_loses_text(named: tuple[str, Tokenizer], text: str) -> None:
    name, made = named
    expected = unicodedata.normalize("NFC", text) if PRE_TOKENIZERS[name].nfc else text
    assert made.decode(made.encode(text), skip_special_tokens=False) == expected


def gemma4(folder: Path, **keys: Any) -> Tokenizer:
    return gguf(GEMMA4_KEYS | {f"tokenizer.ggml.{key}": value for key, value in keys.items()})(folder)


@pytest.mark.parametrize("keys", [{}, {"pre": "gemma4"}, {"model": "gpt2", "pre": "sarvam-moe"}])
def test_vocabularies_that_merge_characters_are_as_in_transformers(tmp_path: Path, keys: dict[str, str]) -> None:
    import transformers

    ours = gemma4(tmp_path, **keys)
    vocabulary = {token: index for index, token in enumerate(GEMMA4_KEYS["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in GEMMA4_KEYS["tokenizer.ggml.merges"]]
    theirs = transformers.GemmaTokenizer(vocab=vocabulary, merges=merges)._tokenizer

    @given(text=st.text(st.sampled_from("ab \n\u00e9\u6f22"), max_size=12))
    @settings(max_examples=80, deadline=None)
    def alike(text: str) -> None:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids) == text

    alike()
    first = [1] if keys.get("pre") != "sarvam-moe" else []
    assert ours.encode("ab", add_special_tokens=True) == [*first, *ours.encode("ab")]
    assert gemma4(tmp_path, add_bos_token=False).encode("ab", add_special_tokens=True) == ours.encode("ab")
