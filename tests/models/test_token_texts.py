"""The texts of tokens, joined, are the text: for every kind of tokenizer, and for replies that continue a prompt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.kinds import KINDS
from tinyllm.models.text.tokenizer import Tokenizer

TEXTS = st.text(st.sampled_from(" abcdehzé🙂"), max_size=20)
WORDS = st.text(st.sampled_from("abcdeh"), min_size=1, max_size=9)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return KINDS[request.param](tmp_path_factory.mktemp("kind"))


def streamed(tokenizer: Tokenizer, ids: list[int], skip_special_tokens: bool = True) -> str:
    stream = tokenizer.stream(skip_special_tokens)
    return "".join([stream.push(token) for token in ids]) + stream.finish()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_stream_is_what_its_tokens_spell(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    spelt = b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace")
    assert streamed(tokenizer, ids, skip_special_tokens=False) == spelt
    assert tokenizer.decode(ids, skip_special_tokens=False) in (spelt, spelt.removeprefix(" "))
    spoken = [token for token in ids if streamed(tokenizer, [token])]
    assert streamed(tokenizer, spoken) == b"".join(map(tokenizer.token_bytes, spoken)).decode(errors="replace")


@given(prompt=WORDS, text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_a_continuation_goes_on_where_the_prompt_ends(tokenizer: Tokenizer, prompt: str, text: str) -> None:
    """The tokenizers package says what prompt and continuation are together."""
    before, ids = tokenizer.encode(prompt), tokenizer.encode(text)
    whole = tokenizer._backend.decode([*before, *ids])
    assert tokenizer.decode(before) + streamed(tokenizer, ids) == whole
    assert whole.removeprefix(prompt).strip(" ") == text.strip(" ")


@given(text=WORDS, rest=TEXTS)
@settings(max_examples=60, deadline=None)
def test_a_whole_text_comes_back(tokenizer: Tokenizer, text: str, rest: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text + rest)) == text + rest
