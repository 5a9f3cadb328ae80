"""Structured output: what comes out is what the grammar allows, whatever the model wants, whoever else is there."""

from __future__ import annotations

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.bookkeeping import engine_problems
from tests.engine.fakes import FakeProgram, FakeTokenizer, sequence
from tests.engine.grammar.replies import (
    END,
    MERGED,
    SPECIAL,
    Bytes,
    assert_refused,
    reply,
    request,
    tokenizer,
    validates,
)
from tinyllm.engine.engine import Engine
from tinyllm.engine.grammar import grammars as grammars_module
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError, TinyllmError, UnsupportedError
from tinyllm.models.text.token_text import TextStream

pytest.importorskip("llguidance")
PATTERNS = ["[a-z]{3,8}", r"\d{4}-\d\d-\d\d", r"[\w.]{2}/\w", "a*b+|c", "(yes|no)( sir)?"]
PATTERNS += ["é日?[x-z]*", r"a/b\n.", "[^a]{2}", " ?x", "(?i)by", " [a-c] ", "^abc$"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_reply_under_a_regex_matches_from_end_to_end(grammars: Grammars, pattern: str) -> None:
    for seed in range(15):
        tested = request(grammars, Grammar.regex(pattern), seed=seed)
        text = reply(tested, seed)
        assert tested.finish_reason == "stop" and re.fullmatch(pattern, text, re.ASCII), text


texts = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=4, unique=True)


@settings(deadline=None, max_examples=60)
@given(texts, st.integers(0, 99))
def test_a_choice_is_among_the_choices(choices: list[str], seed: int) -> None:
    text = reply(request(Grammars(tokenizer()), Grammar.choice(choices), seed=seed), seed)
    assert text in choices


def test_each_choice_can_come_also_one_that_begins_another(grammars: Grammars) -> None:
    choices = ["ab", "abc", "b"]
    assert {reply(request(grammars, Grammar.choice(choices), seed=s), s) for s in range(60)} == set(choices)


def test_a_reply_ends_at_once_where_it_can_only_end(grammars: Grammars) -> None:
    tested = request(grammars, Grammar.choice(["b"]))
    piece = tested.advance(np.zeros(SPECIAL + 1, np.float32))
    assert (piece.text, piece.token_ids, piece.finish_reason) == ("b", (98,), "stop")


def reply_to(tested: Sequence, logits: Any) -> str:
    text = ""
    while tested.finish_reason is None:
        text += tested.advance(logits).text
    return text


def test_a_model_s_end_comes_only_where_the_reply_is_whole(grammars: Grammars) -> None:
    logits = np.zeros(SPECIAL + 1, np.float32)
    logits[END], logits[ord("a")] = 50, 5
    tested = request(grammars, Grammar.regex("a{3,9}"), temperature=0.0)
    assert reply_to(tested, logits) == "aaa"
    assert reply_to(request(grammars, Grammar.regex("a{3,9}"), temperature=0.0, min_tokens=5), logits) == "aaaaa"
    assert reply_to(request(grammars, Grammar.regex("a{3,9}"), temperature=0.0, min_tokens=30), logits) == "aaaaaaaaa"
    assert reply_to(request(grammars, Grammar.regex("a{3,9}"), temperature=0.0, ignore_eos=True), logits) == "aaaaaaaaa"


def test_stops_of_the_settings_and_the_limit_cut_a_reply_anywhere(grammars: Grammars) -> None:
    logits = np.zeros(SPECIAL + 1, np.float32)
    logits[ord("a")] = 5
    pattern = Grammar.regex("a{3}b[a-z]{9}")
    cut = request(grammars, pattern, temperature=0.0, stop="b")
    assert (reply_to(cut, logits), cut.finish_reason) == ("aaa", "stop")
    cut = request(grammars, pattern, temperature=0.0, stop_token_ids=[ord("b")])
    assert (reply_to(cut, logits), cut.finish_reason) == ("aaa", "stop")
    cut = request(grammars, pattern, temperature=0.0, max_tokens=2)
    assert (reply_to(cut, logits), cut.finish_reason) == ("aa", "length")


def test_a_bias_chooses_among_what_is_allowed(grammars: Grammars) -> None:
    logits = np.zeros(SPECIAL + 1, np.float32)
    bias = {ord("z"): 100, ord("y"): -100, ord("n"): -50}
    assert reply_to(request(grammars, Grammar.choice(["yes", "no"]), temperature=0.0, logit_bias=bias), logits) == "no"


def test_where_the_model_gives_all_that_is_allowed_no_chance_the_request_fails(grammars: Grammars) -> None:
    logits = np.full(SPECIAL + 1, -np.inf, np.float32)
    logits[ord("z")] = 1
    with pytest.raises(InvalidInputError, match="no token may come next at position 1,"):
        request(grammars, Grammar.choice(["yes", "no"])).advance(logits)


def test_a_token_that_the_grammar_does_not_allow_is_not_accepted(grammars: Grammars) -> None:
    state = grammars.start(Grammar.choice(["yes", "no"]))
    for token in (ord("z"), END, SPECIAL, -1, 10**6):
        with pytest.raises(TinyllmError, match=f"grammar: token {token} does not continue the reply"):
            state.accept(token)
    state.accept(ord("n"))
    assert not state.may_end and not state.finished and np.flatnonzero(state.mask()).tolist() == [ord("o")]
    state.accept(ord("o"))
    assert state.may_end and state.finished and not state.mask().any()


def test_masks_are_computed_before_they_are_asked_for() -> None:
    with ThreadPoolExecutor(1) as executor:
        seen: list[Any] = []

        class Watched(ThreadPoolExecutor):
            def submit(self, *arguments: Any, **named: Any) -> Any:
                seen.append(executor.submit(*arguments, **named))
                return seen[-1]

        state = Grammars(tokenizer(), Watched(1)).start(Grammar.regex("a[bx]"))
        assert len(seen) == 1 and np.flatnonzero(seen[0].result(5)[0]).tolist() == [ord("a"), 256 + MERGED.index(b"ab")]
        state.accept(ord("a"))
        assert len(seen) == 2 and np.flatnonzero(seen[1].result(5)[0]).tolist() == [ord("b"), ord("x")]
        assert state.mask() is seen[1].result()[0]
        state.accept(ord("b"))
        assert len(seen) == 2  # nothing is left to compute


def test_with_and_without_a_thread_the_reply_is_the_same(grammars: Grammars) -> None:
    grammar = Grammar.json_object()
    for seed in range(3):
        assert reply(request(grammars, grammar, seed=seed), seed) == reply(
            request(Grammars(tokenizer()), grammar, seed=seed), seed
        )


def test_a_grammar_is_compiled_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Grammar] = []
    real = grammars_module.compile_grammar
    monkeypatch.setattr(
        grammars_module,
        "compile_grammar",
        lambda grammars, vocabulary: (compiled.append(grammars[0]), real(grammars, vocabulary))[1],
    )
    tested = Grammars(tokenizer(), most=2)
    for pattern in ("a", "b", "a", "c", "a", "b"):  # b goes for c, as a was used since
        state = tested.start(Grammar.regex(pattern))
        assert np.flatnonzero(state.mask())[0] == ord(pattern)
        state.accept(ord(pattern))
        assert len(tested._cache) <= 2
    assert [g.source for g in compiled] == ["a", "b", "c", "b"]


class Ascii(FakeTokenizer):
    """The fake model's tokenizer with what a grammar asks for."""

    bos_token_id = None

    def token_bytes(self, token: int) -> bytes:
        return b"<end>" if token == 0 else bytes([token])

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        return TextStream(lambda token: bytes([token]) if token else b"")


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 9, "maxLength": 12},
        "n": {"type": "integer", "maximum": 99, "minimum": 10},
        "tags": {"type": "array", "items": {"enum": ["ab", "cd"]}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "n", "tags"],
}
CROWD: dict[str, dict[str, Any]] = {
    "schema": {"grammar": Grammar.json_schema(SCHEMA | {"additionalProperties": False}), "max_tokens": 300},
    "regex": {"grammar": Grammar.regex("[a-z]{10} [0-9]{12}"), "temperature": 0.8, "seed": 3, "max_tokens": 60},
    "free": {"max_tokens": 30},
    "sampled": {"max_tokens": 30, "temperature": 1.0, "seed": 5, "presence_penalty": 1.0},
}


def crowd(names: list[str], pages: int) -> tuple[dict[str, str], Engine]:
    """The replies of some of the crowd, together in one engine."""
    fake: Any = Ascii()
    tested = Engine(ModelRunner(FakeProgram()), pages=pages, page_size=4, max_step_tokens=16, max_running=8)
    with ThreadPoolExecutor(2) as executor:
        compiler = Grammars(fake, executor)
        for name in names:
            params = SamplingParams(**CROWD[name])
            state = compiler.start(params.grammar) if params.grammar else None
            tested.add(
                name, [Sequence(fake.encode(f"tell me {name}"), params, fake, frozenset({0}), 1000, grammar=state)]
            )
        replies = dict.fromkeys(names, "")
        while tested.has_work:
            for event in tested.step():
                assert event.piece is not None, event
                replies[event.request] += event.piece.text
            assert engine_problems(tested) == []
    return replies, tested


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    return {name: crowd([name], 256)[0][name] for name in CROWD}


def test_neighbours_with_and_without_a_grammar_change_nothing(alone: dict[str, str]) -> None:
    assert validates(json.loads(alone["schema"]), SCHEMA) and re.fullmatch("[a-z]{10} [0-9]{12}", alone["regex"])
    assert crowd([*CROWD], 256)[0] == alone


def test_a_preempted_sequence_goes_on_where_its_grammar_was(alone: dict[str, str]) -> None:
    replies, tested = crowd([*CROWD], 26)
    assert tested.stats.preemptions > 0
    assert replies == alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grammar.regex("x(a"), r"regex: .*'x\(a': unclosed group at position 1$"),
        (lambda: Grammar.regex("a/b[z-a]"), "invalid character class range.* at position 4$"),
        (lambda: Grammar.regex(r"\d/\w(?=b)"), "look-around.* at position 5$"),
        (lambda: Grammar.regex(r"[^\s\S]"), "regex: expected one that some text of the vocabulary matches"),
        (lambda: Grammar.regex(3), "regex: expected a regular expression, got 3"),  # type: ignore[arg-type]
        (lambda: Grammar.choice([]), "choice: expected a list of texts, none empty"),
        (lambda: Grammar.choice(["a", ""]), "choice: expected"),
        (lambda: Grammar.choice("ab"), "choice: expected"),
        (lambda: Grammar.choice(["\ud800"]), "choice: expected valid Unicode"),
    ],
)
def test_bad_grammars_are_refused_with_the_place(grammars: Grammars, make: Any, message: str) -> None:
    assert_refused(grammars, make, message)


def test_settings_with_a_grammar_need_its_state() -> None:
    with pytest.raises(InvalidInputError, match="sequence: grammar: expected a state"):
        sequence("a", grammar=Grammar.json_object())


def test_without_llguidance_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UnsupportedError, match=re.escape("pip install 'tinyllm[grammar]'")):
        Grammars(tokenizer()).start(Grammar.json_object())


class WithoutAccents(Bytes):
    """Lacks the tokens of other characters."""

    def token_bytes(self, token: int) -> bytes:
        return b"" if token >= 128 and token < END else super().token_bytes(token)


@pytest.mark.parametrize("pattern", ["aé", "[ab]{3}é"])
def test_a_reply_that_cannot_be_spelled_to_its_end(pattern: str) -> None:
    """The grammar is at odds with the vocabulary: whoever asked for it is told where."""
    fake: Any = WithoutAccents()
    tested = Sequence(
        [1],
        SamplingParams(max_tokens=20, grammar=Grammar.regex(pattern), logit_bias={ord("b"): -100.0}),
        fake,
        frozenset({END}),
        100,
        grammar=Grammars(fake).start(Grammar.regex(pattern)),
    )
    with pytest.raises(
        InvalidInputError, match=r"no token of the vocabulary continues the reply at position \d+ as the grammar asks"
    ):
        reply(tested, 0)
