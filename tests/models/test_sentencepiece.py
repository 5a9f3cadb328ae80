"""Sentencepiece tokenizers of GGUF files, judged by the definition and by the tokenizers package."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.kinds import KINDS, PIECES, SCORES
from tinyllm.models.text.tokenizer import Tokenizer


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
    return KINDS["gguf sentencepiece"](tmp_path_factory.mktemp("spm"))


@given(text=st.text(st.sampled_from(" abcdehzé🙂"), max_size=30))
@settings(max_examples=300, deadline=None)
def test_sentencepiece_encodes_by_its_definition(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert ids == sentencepiece_by_definition(text)
    assert sentencepiece.decode(ids) == text
    assert sentencepiece.encode(text, add_special_tokens=True) == [1, *ids]


@given(text=st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_sentencepiece_decodes_as_the_tokenizers_package_does(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert sentencepiece.decode(ids) == sentencepiece._backend.decode(ids)
