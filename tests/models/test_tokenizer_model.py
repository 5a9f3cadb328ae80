"""`tokenizer.model` alone: ids and texts as the sentencepiece package gives them for models that it trained, special
tokens as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.kinds import PLAIN, gguf, trained
from tinyllm.errors import CheckpointError
from tinyllm.models.text.chat_template import templates_from_folder
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.models.text.tokenizer_folder import tokenizer_from_folder

CORPUS = ["the cat sat on the mat", "a dog ran  to the other dogs", "naïve café, 12 34", "def f(x):\treturn x"] * 5
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "byte_fallback": True, **PLAIN},
    "gemma": {"model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False, **PLAIN},
    "user defined": {"model_type": "bpe", "byte_fallback": True, "user_defined_symbols": ["<u>", "▁▁"], **PLAIN},
    "normalized": {"model_type": "bpe"},
    "unigram": {"model_type": "unigram"},
    "unigram bytes": {"model_type": "unigram", "byte_fallback": True, **PLAIN},
}
TEXTS = st.lists(st.sampled_from(["the", "cat", " ", "  ", "ﬁ", "é", "dog", "s", "12", "\n", "<u>", "x"]), max_size=8)
KNOWN_TEXTS = st.lists(st.sampled_from(["the", "cat", " ", "dog", "s", "x", "1"]), max_size=8)


def opened(folder: Path, model: bytes, **tokenizer_config: Any) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return tokenizer_from_folder(folder, {}, {})


@pytest.fixture(scope="module", params=MODELS)
def both(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """Our tokenizer, and the sentencepiece package's."""
    model = trained(CORPUS, **MODELS[request.param])
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    return opened(tmp_path_factory.mktemp("model"), model), theirs


@given(words=TEXTS)
@settings(max_examples=150, deadline=None)
def test_ids_are_sentencepiece_s(both: tuple[Tokenizer, Any], words: list[str]) -> None:
    ours, theirs = both
    assert ours.encode("".join(words)) == theirs.encode("".join(words))


@pytest.fixture(scope="module")
def gguf_and_theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """As Gemma's files are: no space before a text, and runs of spaces that are taken whole."""
    runs = ["<u>", "▁▁", "▁▁▁"]
    settings_ = {**MODELS["gemma"], "user_defined_symbols": runs}
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained(CORPUS, **settings_))
    pieces = range(theirs.get_piece_size())
    types = [
        2 if theirs.is_unknown(n) else 3 if theirs.is_control(n) else 6 if theirs.is_byte(n) else 1 for n in pieces
    ]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [theirs.id_to_piece(n) for n in pieces],
        "tokenizer.ggml.scores": [theirs.get_score(n) for n in pieces],
        "tokenizer.ggml.token_type": [4 if theirs.id_to_piece(n) in runs else types[n] for n in pieces],
        "tokenizer.ggml.unknown_token_id": theirs.unk_id(),
        "tokenizer.ggml.add_space_prefix": False,
    }
    return gguf(keys)(tmp_path_factory.mktemp("gguf")), theirs


@given(words=TEXTS)
@settings(max_examples=150, deadline=None)
def test_pieces_taken_whole_are_found_in_gguf_files(gguf_and_theirs: tuple[Tokenizer, Any], words: list[str]) -> None:
    ours, theirs = gguf_and_theirs
    assert ours.encode("".join(words)) == theirs.encode("".join(words))


@given(words=KNOWN_TEXTS)
@settings(max_examples=100, deadline=None)
def test_texts_are_sentencepiece_s(both: tuple[Tokenizer, Any], words: list[str]) -> None:
    ours, theirs = both
    ids = theirs.encode("".join(words))
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("config", [{}, {"add_bos_token": True}, {"add_eos_token": True, "add_bos_token": True}])
@pytest.mark.parametrize("text", ["the cat", "<s>the</s> dog", "<unk> x"])
def test_special_tokens_are_as_in_transformers(tmp_path: Path, config: dict[str, Any], text: str) -> None:
    import transformers

    ours = opened(tmp_path, trained(CORPUS, **MODELS["llama"]), **config)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (ours.bos_token_id, ours.eos_token_ids) == (theirs.bos_token_id, (theirs.eos_token_id,))
    ids = ours.encode(text, add_special_tokens=True)
    assert ids == theirs.encode(text)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.special_tokens == {token: theirs.vocab[token] for token in theirs.all_special_tokens}


def test_templates_know_its_special_tokens(tmp_path: Path) -> None:
    opened(tmp_path, trained(CORPUS, **MODELS["llama"]), eos_token="▁the")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    template = templates_from_folder(tmp_path)
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}]) == "<s>hi▁the"


def test_tokenizer_json_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a tokenizer"):
        opened(tmp_path, trained(CORPUS, **MODELS["llama"]))


@pytest.mark.parametrize("kind", ["word", "char"])
def test_models_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"model_type: expected unigram or bpe, got {kind}"):
        opened(tmp_path, trained(CORPUS, model_type=kind))


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    whole = trained(CORPUS, **MODELS["llama"])
    for end in (0, 1, 2, 3, 8, 1000, len(whole) - 1):
        with pytest.raises(CheckpointError, match=r"tokenizer\.model: .*expected"):
            opened(tmp_path, whole[:end])
    for changed in (b"\x09" + whole, b"not a model", b"\x0a\x02\x08\x01" + whole):
        with pytest.raises(
            CheckpointError, match=r"tokenizer\.model: expected a sentencepiece model, got another file"
        ):
            opened(tmp_path, changed)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: expected a model .* got: .*charsmap"):
        opened(tmp_path, whole + b"\x1a\x05\x12\x03abc")
