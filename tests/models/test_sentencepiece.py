"""Sentencepiece tokenizers of GGUF files, judged by the definition and by the tokenizers package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.conftest import write_gguf
from tinyllm.models.checkpoints.gguf import GgufFile
from tinyllm.models.text.gguf_vocabulary import tokenizer_from_gguf
from tinyllm.models.text.tokenizer import Tokenizer

PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *"▁abcdeh",
    "▁a",
    "ab",
    "he",
    "▁ab",
    "cd",
    "▁▁",
    "ea",
    "hea",
]
SCORES = [0.0] * 259 + [-20.0] * 7 + [-2.0, -1.0, -3.0, -5.0, -4.0, -8.0, -6.0, -7.0]
SPM_KEYS: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": SCORES,
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 15,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


def sentencepiece_by_definition(text: str) -> list[int]:
    """Joins, again and again, the leftmost of the neighbours whose whole scores best; what is left unknown goes by
    bytes."""
    ids = {piece: index for index, piece in enumerate(PIECES)}
    symbols = list(("▁" + text.replace(" ", "▁")) if text else "")
    while True:
        wholes = [symbols[i] + symbols[i + 1] for i in range(len(symbols) - 1)]
        scores = [SCORES[ids[whole]] if whole in ids else float("-inf") for whole in wholes]
        if not scores or max(scores) == float("-inf"):
            break
        best = scores.index(max(scores))
        symbols[best : best + 2] = [wholes[best]]
    out: list[int] = []
    for symbol in symbols:
        out += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return out


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("spm") / "m.gguf"
    table = {"token_embd.weight": np.zeros((len(PIECES), 64), np.float32)}
    return tokenizer_from_gguf(GgufFile(write_gguf(path, keys=SPM_KEYS, tensors=table)))


@given(text=st.text(st.sampled_from(" abcdehzé🙂"), max_size=30))
@settings(max_examples=300, deadline=None)
def test_sentencepiece_encodes_by_its_definition(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert ids == sentencepiece_by_definition(text)
    assert sentencepiece.decode(ids) == text
    assert sentencepiece.encode(text, add_special_tokens=True) == [1, *ids]


@given(ids=st.lists(st.integers(0, len(PIECES) - 1), max_size=30))
@settings(max_examples=200, deadline=None)
def test_sentencepiece_streams_what_it_decodes(sentencepiece: Tokenizer, ids: list[int]) -> None:
    stream = sentencepiece.stream()
    assert "".join([stream.push(token) for token in ids]) + stream.finish() == sentencepiece.decode(ids)


@given(text=st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_sentencepiece_decodes_as_the_tokenizers_package_does(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert sentencepiece.decode(ids) == sentencepiece._backend.decode(ids)
