"""One request: its tokens, its text and how it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.fakes import STOP, VOCABULARY, FakeTokenizer, sequence
from tests.models.kinds import KINDS
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.models.text.token_text import TextStream
from tinyllm.models.text.tokenizer import Tokenizer


def wanting(token: int) -> Any:
    """Logits that want one token."""
    logits = np.zeros(VOCABULARY, np.float32)
    logits[token] = 5
    return logits


@pytest.mark.parametrize(
    ("cached", "generated", "pending"),
    [
        (0, [], [97, 98, 99]),
        (2, [], [99]),
        (3, [100], [100]),
        (2, [100], [99, 100]),
        (4, [100, 101], [101]),
        (0, [100], [97, 98, 99, 100]),
    ],
)
def test_pending_are_the_tokens_without_keys(cached: int, generated: list[int], pending: list[int]) -> None:
    request = sequence("abc")
    request.cached, request.generated = cached, generated
    assert request.pending == len(pending)
    assert request.tokens(cached, request.length) == pending
    assert request.tokens(cached, cached + 1) == pending[:1]


def test_stop_token_is_neither_shown_nor_kept() -> None:
    request = sequence("abc")
    piece = request.advance(wanting(STOP))
    assert (piece.text, piece.token_ids, piece.finish_reason, request.generated) == ("", (), "stop", [])


def test_characters_of_several_tokens_come_whole() -> None:
    class Bytes(FakeTokenizer):
        def stream(self, skip_special_tokens: bool = True) -> TextStream:
            return TextStream(lambda token: bytes([token + 128 if token >= 32 else token]))

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


def said(request: Sequence, *tokens: int) -> str:
    """The text of a reply to logits that want these tokens in turn."""
    text = ""
    for token in tokens:
        assert request.finish_reason is None
        text += request.advance(wanting(token)).text
    return text


def test_frequency_counts_the_reply_alone_and_presence_does_not_count() -> None:
    logits = wanting(ord("b"))
    logits[ord("c")] = 4.5
    often = sequence("bbbbbbb", frequency_penalty=0.2)
    assert "".join(often.advance(logits).text for _ in range(4)) == "bbbc"  # 5, 4.8, 4.6, 4.4
    once = sequence("bbbbbbb", presence_penalty=0.4)
    assert "".join(once.advance(logits).text for _ in range(4)) == "bbbb"


def test_bias_changes_what_is_chosen_but_not_the_logprobs() -> None:
    request = sequence("a", logit_bias={99: 100}, logprobs=1)
    piece = request.advance(wanting(98))
    assert piece.text == "c" and piece.logprobs[0].top[0][0] == 98
    assert piece.logprobs == sequence("a", logit_bias={98: -100, 99: 6}, logprobs=1).advance(wanting(98)).logprobs


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}])
def test_no_stop_token_before_min_tokens(settings: dict[str, Any]) -> None:
    request = sequence("abc", min_tokens=3, stop_token_ids=[98], seed=1, **settings)
    logits = wanting(STOP)
    logits[98] = 30
    for _ in range(3):
        assert request.advance(logits).finish_reason is None
    assert STOP not in request.generated and 98 not in request.generated
    assert request.advance(logits).finish_reason == "stop"
    assert len(request.generated) == 3


def test_no_stop_string_before_min_tokens() -> None:
    request = sequence("abc", stop="xy", min_tokens=3)
    assert said(request, *b"xyxaxy") == "xyxa" and request.finish_reason == "stop"
    across = sequence("abc", stop="xy", min_tokens=2)
    assert said(across, *b"xya") == "xya"  # the x is of the part that is not looked at
    assert said(sequence("abc", stop="xy"), *b"xy") == ""


def test_a_stop_token_of_the_settings_ends_as_the_model_s_do() -> None:
    request = sequence("abc", stop_token_ids=[98])
    piece = request.advance(wanting(98))
    assert (piece.text, piece.token_ids, piece.finish_reason, request.generated) == ("", (), "stop", [])


def test_an_ignored_end_is_a_token_like_any_other() -> None:
    request = sequence("abc", ignore_eos=True, max_tokens=3, stop_token_ids=[98])
    assert said(request, STOP, STOP) == "\0\0" and request.generated == [STOP, STOP]
    assert request.advance(wanting(98)).finish_reason == "stop"


def test_where_every_token_is_forbidden_the_request_fails() -> None:
    logits = np.full(VOCABULARY, -np.inf, np.float32)
    logits[STOP] = 1.0
    with pytest.raises(InvalidInputError, match="no token may come next at position 3,"):
        sequence("abc", min_tokens=1).advance(logits)


def test_plain_greedy_needs_no_copy_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> Any:
        raise AssertionError("adjusted")

    monkeypatch.setattr("tinyllm.engine.sequence.adjust", never)
    assert sequence("abc").advance(wanting(98)).text == "b"
    with pytest.raises(AssertionError, match="adjusted"):
        sequence("abc", presence_penalty=1).advance(wanting(98))


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return KINDS[request.param](tmp_path_factory.mktemp("kind"))


def forced(tokenizer: Tokenizer, tokens: list[int], **sampling: Any) -> tuple[str, Sequence]:
    """The text of a reply to the prompt `ab` whose tokens are these, as far as it goes."""
    params = SamplingParams(**{"max_tokens": len(tokens), **sampling})
    request, text = Sequence(tokenizer.encode("ab"), params, tokenizer, frozenset(), 100), ""
    for token in tokens:
        if request.finish_reason is None:
            logits = np.zeros(tokenizer.vocab_size, np.float32)
            logits[token] = 5
            text += request.advance(logits).text
    return text, request


def test_a_reply_keeps_the_space_before_its_first_word(tokenizer: Tokenizer) -> None:
    word = tokenizer.encode(" he")
    spelt = b"".join(map(tokenizer.token_bytes, word)).decode()
    assert spelt.startswith(" ")
    assert forced(tokenizer, word * 2)[0] == spelt * 2
    text, request = forced(tokenizer, word * 2, stop=spelt)
    assert (text, request.finish_reason, request.generated) == ("", "stop", word)


@pytest.mark.parametrize("shown", [False, True])
def test_what_stopped_a_reply_is_shown_where_that_is_asked_for(shown: bool) -> None:
    """A stop string, a token of the client's and one of the model's alike; the tokens then spell the text."""
    said = [ord(c) for c in "to be"]
    for settings, end in (({"stop": "be"}, "be"), ({"stop_token_ids": (ord("e"),)}, "e"), ({}, "\0")):
        request = sequence("a", include_stop_str_in_output=shown, **settings)
        pieces = [request.advance(wanting(token)) for token in (*said, STOP) if request.finish_reason is None]
        text, tokens = "".join(p.text for p in pieces), [t for p in pieces for t in p.token_ids]
        before = {"be": "to ", "e": "to b", "\0": "to be"}[end]
        assert text == before + (end if shown else "") and request.finish_reason == "stop"
        assert tokens == request.generated and (not shown or "".join(map(chr, tokens)) == text)


@pytest.mark.parametrize("skips", [False, True])
def test_special_tokens_are_shown_where_that_is_asked_for(skips: bool) -> None:
    class Special(FakeTokenizer):
        def stream(self, skip_special_tokens: bool = True) -> TextStream:
            return TextStream(lambda token: bytes([token]), {1} if skip_special_tokens else ())

    tokenizer: Any = Special()
    request = Sequence([97], SamplingParams(skip_special_tokens=skips), tokenizer, frozenset({STOP}), 100)
    assert "".join(request.advance(wanting(token)).text for token in (98, 1, 99)) == ("bc" if skips else "b\x01c")


def test_the_token_that_ends_a_reply_has_a_log_probability_and_is_no_part_of_it() -> None:
    request = sequence("a", logprobs=1)
    piece = request.advance(wanting(STOP))
    assert piece.end_logprob is not None and piece.end_logprob.token_id == STOP and piece.logprobs == ()


@pytest.mark.parametrize(("sampling", "same"), [({"top_k": 0}, {}), ({"top_k": -1}, {}), ({"top_p": 0}, {"top_k": 1})])
def test_values_that_other_servers_have_for_off(sampling: dict[str, Any], same: dict[str, Any]) -> None:
    """A nucleus of nothing has the likeliest token all the same."""
    noise = np.random.default_rng(0).standard_normal((40, VOCABULARY)).astype(np.float32)
    drawn = []
    for settings in (sampling, same):
        request = sequence("a", temperature=1.5, seed=3, ignore_eos=True, **settings)
        drawn.append([request.advance(row).token_ids for row in noise])
    assert drawn[0] == drawn[1]


def test_no_limit_is_as_much_as_fits() -> None:
    request = sequence("abc", limit=9, max_tokens=-1)
    while request.finish_reason is None:
        request.advance(wanting(97))
    assert (request.length, request.longest, request.finish_reason) == (9, 9, "length")
