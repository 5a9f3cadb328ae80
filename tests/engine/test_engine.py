"""The engine by simulation: a fake model whose reply shows every token that is not in its place."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.bookkeeping import engine_problems
from tests.engine.fakes import PAGE, VOCABULARY, Clock, Failing, FakeProgram, alone, engine, run, sequence
from tinyllm.engine.engine import DeadlineError, Event, QueueFullError, StepError
from tinyllm.engine.grammar.state import GrammarState
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import InvalidInputError

CROWD = {
    "short": ("ab", {"max_tokens": 30}),
    "long": ("once upon a time " * 6, {"max_tokens": 20}),
    "sampled": ("xyz", {"max_tokens": 25, "temperature": 0.9, "seed": 7}),
    "stop": ("hello", {"max_tokens": 40, "stop": ("e",)}),
    "penalised": ("aaaa", {"max_tokens": 30, "repetition_penalty": 1.5}),
}


@pytest.fixture(scope="module")
def wanted() -> dict[str, str]:
    return {name: alone(prompt, **sampling) for name, (prompt, sampling) in CROWD.items()}


@pytest.mark.parametrize("one_at_a_time", [False, True])
@pytest.mark.parametrize("chunk", [3, 16, 512])
def test_a_crowd_gets_what_each_gets_alone(wanted: dict[str, str], chunk: int, one_at_a_time: bool) -> None:
    """Seeds, penalties and stop strings too; nothing is left held."""
    tested = engine(max_step_tokens=max(4, chunk) if one_at_a_time else chunk, one_at_a_time=one_at_a_time)
    assert run(tested, CROWD) == wanted
    assert tested.pool.held == 0 and tested.stats.preemptions == 0


@pytest.mark.parametrize("pages", [35, 40, 48])
def test_preemption_changes_nothing(wanted: dict[str, str], pages: int) -> None:
    """Too few pages for all: some are computed anew, and give the same."""
    tested = engine(pages=pages)
    assert run(tested, CROWD) == wanted
    assert pages > 40 or tested.stats.preemptions > 0


def test_a_prefix_is_read_once() -> None:
    """The second prompt computes only what the first did not have."""
    program = FakeProgram()
    tested = engine(program, max_step_tokens=512)
    shared = "the same beginning of both, "
    first = run(tested, {"a": (shared + "one", {"max_tokens": 5})})
    program.sizes.clear()
    second = run(tested, {"b": (shared + "two", {"max_tokens": 5})})
    assert program.sizes[0] == len(shared + "two") - len(shared) // PAGE * PAGE
    assert tested.stats.reused_tokens == len(shared) // PAGE * PAGE
    assert first["a"] == alone(shared + "one", max_tokens=5) and second["b"] == alone(shared + "two", max_tokens=5)


def test_the_very_same_prompt_still_computes_a_token() -> None:
    tested, prompt = engine(), "x" * (2 * PAGE)
    assert run(tested, {"a": (prompt, {"max_tokens": 3})})["a"] == run(tested, {"b": (prompt, {"max_tokens": 3})})["b"]


def test_choices_of_one_prompt_share_its_pages() -> None:
    program = FakeProgram()
    tested = engine(program, max_step_tokens=512)
    sequences = [sequence("a prompt of some length", max_tokens=4, temperature=1.0, seed=n) for n in range(3)]
    tested.add("n", sequences)
    events = [event for _ in range(20) for event in tested.step()]
    assert {e.index for e in events} == {0, 1, 2}
    assert program.sizes[0] == 23 and max(program.sizes[1:]) < 12
    assert len({tuple(s.generated) for s in sequences}) == 3


def test_a_long_prompt_stops_nobody_for_more_than_a_chunk() -> None:
    """While it is read, a stream gets a token in each step, and no step is larger than it may be."""
    program = FakeProgram()
    tested = engine(program)
    tested.add("stream", [sequence("ab", max_tokens=60)])
    tested.step()
    tested.add("long", [sequence("z" * 150, max_tokens=1)])
    seen: list[list[Event]] = []
    while not any(e.request == "long" for events in seen for e in events):
        seen.append(tested.step())
    assert len(seen) >= 150 // 16
    assert all(any(e.request == "stream" for e in events) for events in seen)
    assert max(program.sizes) <= 16


def test_priorities_and_ageing() -> None:
    """The lower number goes first, but who waited long enough goes before all."""
    clock = Clock()
    tested = engine(max_running=1, clock=clock)
    for name, priority in (("first", 0), ("late", 5), ("early", -1)):
        tested.add(name, [sequence("ab", max_tokens=2)], priority)
    order = []
    while tested.has_work:
        order += [e.request for e in tested.step() if e.piece and e.piece.finish_reason]
    assert order == ["early", "first", "late"]
    tested.add("old", [sequence("ab", max_tokens=2)], 5)
    clock.now += 100
    tested.add("new", [sequence("cd", max_tokens=2)], 0)
    order = []
    while tested.has_work:
        order += [e.request for e in tested.step() if e.piece and e.piece.finish_reason]
    assert order == ["old", "new"]


def test_urgent_requests_hold_off_another_for_a_bounded_time() -> None:
    """However many of them come after it, and however urgent they are."""
    clock = Clock()
    tested = engine(max_running=1, clock=clock)
    tested.add("plain", [sequence("ab", max_tokens=1)], 0)
    for number in range(80):
        tested.add(f"urgent {number}", [sequence("cd", max_tokens=1)], -100)
        assert tested.knows("plain") == (clock.now < 10) or 10 <= clock.now < 11
        tested.step()
        clock.now += 0.4
    assert not tested.knows("plain")


def test_cancel_frees_pages_at_once() -> None:
    tested = engine()
    tested.add("a", [sequence("some prompt", max_tokens=50)])
    tested.add("b", [sequence("another", max_tokens=50)])
    tested.step()
    held = tested.pool.held
    assert tested.cancel("a") and not tested.cancel("a")
    assert 0 < tested.pool.held < held and engine_problems(tested) == []
    assert {e.request for e in tested.step()} == {"b"}


def test_deadlines() -> None:
    clock = Clock()
    tested = engine(clock=clock)
    tested.add("a", [sequence("ab", max_tokens=50)], seconds=2.0)
    assert all(e.error is None for e in tested.step())
    clock.now = 2.0
    (event,) = tested.step()
    assert isinstance(event.error, DeadlineError) and not tested.has_work and tested.pool.held == 0


def test_backpressure() -> None:
    tested = engine(max_running=1, max_waiting=2)
    for name in "abc":
        tested.add(name, [sequence("ab", max_tokens=2)])
    with pytest.raises(QueueFullError) as caught:
        tested.add("d", [sequence("ab", max_tokens=2)])
    assert caught.value.retry_after >= 1
    while tested.has_work:
        tested.step()
    tested.add("d", [sequence("ab", max_tokens=2)])


def test_what_can_never_fit_is_refused() -> None:
    tested = engine(pages=4)
    with pytest.raises(InvalidInputError, match="has 16 tokens, the cache has room for 15"):
        tested.add("a", [sequence("x" * 16)])
    tested.add("b", [sequence("x" * 10, max_tokens=100)])
    events = [e for _ in range(30) for e in tested.step()]
    assert events[-1].piece is not None and events[-1].piece.finish_reason == "length"
    assert sum(len(e.piece.token_ids) for e in events if e.piece) == 6


def test_a_kernel_that_fails_ends_the_request_that_it_is_due_to(wanted: dict[str, str]) -> None:
    """All others are computed anew and give what they would have given."""
    tested = engine(Failing(), max_step_tokens=512)
    for name, (prompt, sampling) in CROWD.items():
        tested.add(name, [sequence(prompt, **sampling)])
    tested.add("bad", [sequence("oh no!")])
    texts, errors = dict.fromkeys(CROWD, ""), []
    while tested.has_work:
        for event in tested.step():
            if event.error:
                errors.append((event.request, event.error))
            else:
                texts[event.request] += event.piece.text if event.piece else ""
        assert engine_problems(tested) == []
    ((request, error),) = errors
    assert request == "bad" and isinstance(error, StepError) and "out of luck" in str(error)
    assert texts == wanted


class NotFinite(FakeProgram):
    """NaN for sequences that begin with `?`."""

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return super().logits(tokens) * (np.nan if tokens[0] == ord("?") else 1)


def test_logits_that_are_no_numbers_end_one_request() -> None:
    tested = engine(NotFinite())
    tested.add("good", [sequence("ab", max_tokens=3)])
    tested.add("bad", [sequence("?b", max_tokens=3)])
    events = [e for _ in range(5) for e in tested.step()]
    assert [e.request for e in events if e.error] == ["bad"]
    assert sum(e.request == "good" for e in events) == 3


class LateGrammar:
    """Stands in for the state of a grammar whose masks take long."""

    may_end, finished, late = False, False, True

    def mask(self) -> NDArray[np.bool_]:
        return np.ones(VOCABULARY, np.bool_)

    def accept(self, token: int) -> None:
        pass


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_nobody_waits_for_the_grammar_of_another(one_at_a_time: bool) -> None:
    """Where all are late one of them is waited for."""
    tested = engine(one_at_a_time=one_at_a_time)
    first, second = (with_grammar(sequence("ab", max_tokens=3, ignore_eos=True)) for _ in range(2))
    tested.add("late", [first, second])
    tested.step()
    assert len(first.generated) + len(second.generated) == 1
    tested.add("other", [sequence("cd", max_tokens=6, ignore_eos=True)])
    while tested.knows("other"):
        tested.step()
    assert len(first.generated) + len(second.generated) == 1
    while tested.has_work:
        tested.step()
    assert len(first.generated) == len(second.generated) == 3


def with_grammar(request: Sequence) -> Sequence:
    request.grammar, request._plain = cast(GrammarState, LateGrammar()), False
    return request
