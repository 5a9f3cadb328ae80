"""One request: its tokens, its text and how it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.fakes import STOP, VOCABULARY, FakeTokenizer, sequence
from tinyllm.engine.sampling import SamplingParams
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import TinyllmError
from tinyllm.models.token_text import TextStream


def wanting(token: int) -> Any:
    """Logits that want one token."""
    logits = np.zeros(VOCABULARY, np.float32)
    logits[token] = 5
    return logits


@pytest.mark.parametrize(("cached", "generated", "pending"), [
    (0, [], [97, 98, 99]),
    (2, [], [99]),
    (3, [100], [100]),
    (2, [100], [99, 100]),
    (4, [100, 101], [101]),
    (0, [100], [97, 98, 99, 100]),
])  # fmt: skip
def test_pending_are_the_tokens_without_keys(cached: int, generated: list[int], pending: list[int]) -> None:
    request = sequence("abc")
    request.cached, request.generated = cached, generated
    assert request.pending() == pending


def test_stop_token_is_neither_shown_nor_kept() -> None:
    request = sequence("abc")
    piece = request.advance(wanting(STOP))
    assert (piece.text, piece.token_ids, piece.finish_reason, request.generated) == ("", (), "stop", [])


def test_characters_of_several_tokens_come_whole() -> None:
    class Bytes(FakeTokenizer):
        def stream(self) -> TextStream:
            return TextStream(lambda token: bytes([token + 128 if token >= 32 else token]), False)

    tokenizer: Any = Bytes()
    request = Sequence([1], SamplingParams(max_tokens=3), tokenizer, frozenset(), 100)
    first, second = (ord(c) - 128 for c in "é".encode().decode("latin-1"))
    texts = [request.advance(wanting(t)).text for t in (first, second, first)]
    assert texts == ["", "é", "�"]  # what is cut off at the end is shown as such


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}])
def test_logits_that_are_no_numbers_give_no_token(value: float, settings: dict[str, float]) -> None:
    request = sequence("abc", **settings)
    logits = wanting(98)
    logits[7] = value
    with pytest.raises(TinyllmError, match=f"position 3: expected finite logits, got {value}"):
        request.advance(logits)
    assert request.generated == []


def test_logits_of_minus_infinity_are_merely_never_taken() -> None:
    logits = np.full(VOCABULARY, -np.inf, np.float32)
    with pytest.raises(TinyllmError, match="got -inf"):
        sequence("abc").advance(logits)
    logits[98] = 0
    assert sequence("abc", temperature=2.0).advance(logits).text == "b"


def test_logprobs_come_when_asked_for() -> None:
    assert sequence("a").advance(wanting(98)).logprobs == ()
    (entry,) = sequence("a", logprobs=2).advance(wanting(98)).logprobs
    assert entry.token_id == 98 and entry.top[0][0] == 98 and len(entry.top) == 2


def test_penalty_sees_prompt_and_reply() -> None:
    request = sequence("b", repetition_penalty=10.0)
    logits = wanting(ord("b"))
    logits[ord("c")] = 4
    logits[ord("d")] = 3
    assert [request.advance(logits).text for _ in range(2)] == ["c", "d"]


def test_without_a_seed_each_request_has_its_own() -> None:
    assert len({sequence("a").seed for _ in range(5)}) == 5
    assert sequence("a", seed=4).seed == 4
