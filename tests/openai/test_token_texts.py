"""The texts of tokens in log probabilities, joined, are the text of the reply, for every kind of tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models.kinds import KINDS
from tinyllm.engine.sampling.logprobs import TokenLogprob
from tinyllm.engine.sequence import Piece
from tinyllm.models.text.tokenizer import Tokenizer
from tinyllm.openai.token_logprobs import CompletionLogprobs, chat_logprob


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return KINDS[request.param](tmp_path_factory.mktemp("kind"))


@pytest.mark.parametrize("text", [" he", "he", " ab  he cd"])
def test_token_texts_joined_are_the_reply(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text) * 2
    stream = tokenizer.stream()
    reply = "".join([stream.push(token) for token in tokens]) + stream.finish()
    entries = tuple(TokenLogprob(token, -1.0) for token in tokens)
    columns = CompletionLogprobs(tokenizer, 0, True).push(Piece(reply, tuple(tokens), entries))
    assert "".join(columns["tokens"]) == reply
    assert [reply[:place] for place in columns["text_offset"]] == [
        "".join(columns["tokens"][:number]) for number in range(len(tokens))
    ]
    said = [chat_logprob(tokenizer, entry) for entry in entries]
    assert "".join(entry["token"] for entry in said) == reply
    assert b"".join(bytes(entry["bytes"]) for entry in said).decode() == reply


@pytest.mark.parametrize("text", ["he", "ab  he cd", " he"])
def test_token_texts_of_a_prompt_joined_are_its_echo(tokenizer: Tokenizer, text: str) -> None:
    """The space that a tokenizer puts before a text is not echoed, and no token has it."""
    tokens = tokenizer.encode(text)
    echoed = tokenizer.decode(tokens)
    columns = CompletionLogprobs(tokenizer, 0, True).echo(tokens, [None] * len(tokens), echoed)
    said = columns["tokens"] or []
    assert "".join(said) == echoed
    assert [echoed[:place] for place in columns["text_offset"] or []] == ["".join(said[:n]) for n in range(len(said))]
