"""The engine by simulation: a fake model whose reply shows every token that is not in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.engine.fakes import FakeProgram, sequence
from tinyllm.engine.engine import DeadlineError, Engine, Event, QueueFullError, StepError
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.errors import InvalidInputError

PAGE = 4


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def engine(program: Any = None, pages: int = 64, **settings: Any) -> Engine:
    settings = {"page_size": PAGE, "max_step_tokens": 16, "max_running": 8, "clock": Clock()} | settings
    return Engine(ModelRunner(program or FakeProgram()), pages=pages, **settings)


def alone(prompt: str, **sampling: Any) -> str:
    """What a prompt gives by itself, with all the room there is."""
    return run(engine(pages=256, max_step_tokens=4096), {"a": (prompt, sampling)})["a"]


def run(tested: Engine, requests: dict[str, tuple[str, dict[str, Any]]], on_step: Callable[[int], None] = lambda n: None) -> dict[str, str]:
    """All to their end; the texts."""
    for name, (prompt, sampling) in requests.items():
        tested.add(name, [sequence(prompt, **sampling)])
    texts, steps = dict.fromkeys(requests, ""), 0
    while tested.has_work:
        for event in tested.step():
            assert event.error is None, event
            texts[event.request] += event.piece.text if event.piece else ""
        assert tested.problems() == []
        on_step(steps := steps + 1)
        assert steps < 10_000
    return texts


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


def test_cancel_frees_pages_at_once() -> None:
    tested = engine()
    tested.add("a", [sequence("some prompt", max_tokens=50)])
    tested.add("b", [sequence("another", max_tokens=50)])
    tested.step()
    held = tested.pool.held
    assert tested.cancel("a") and not tested.cancel("a")
    assert 0 < tested.pool.held < held and tested.problems() == []
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


class Failing(FakeProgram):
    """Fails on every step that has the token `!`."""

    def __call__(self, inputs: Any, state: Any) -> Any:
        if ord("!") in inputs["tokens"]:
            state.clear()
            raise RuntimeError("out of luck")
        return super().__call__(inputs, state)


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
        assert tested.problems() == []
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


class Machine(RuleBasedStateMachine):
    """Random requests, steps, cancellations and failures: no page is ever lost or shared wrongly, and replies are right."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.program = FakeProgram()
        self.engine = engine(self.program, pages=24, clock=self.clock, max_running=4, max_waiting=6)
        self.number = 0
        self.texts: dict[str, str] = {}
        self.prompts: dict[str, tuple[str, dict[str, Any]]] = {}

    @rule(prompt=st.text("ab", min_size=1, max_size=40), tokens=st.integers(1, 30), priority=st.integers(-1, 1), late=st.booleans())
    def add(self, prompt: str, tokens: int, priority: int, late: bool) -> None:
        self.number += 1
        sampling = {"max_tokens": tokens, "temperature": 0.7, "seed": self.number}
        try:
            self.engine.add(str(self.number), [sequence(prompt, **sampling)], priority, 3.0 if late else None)
        except QueueFullError:
            return
        self.texts[str(self.number)], self.prompts[str(self.number)] = "", (prompt, sampling)

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.now += 0.05
            for event in self.engine.step():
                if event.error:
                    self.texts.pop(event.request)
                    continue
                piece = event.piece
                self.texts[event.request] += piece.text if piece else ""
                if piece and piece.finish_reason:
                    prompt, sampling = self.prompts[event.request]
                    assert self.texts.pop(event.request) == alone(prompt, **sampling)

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        names = sorted(self.texts)
        if names:
            name = names[which % len(names)]
            assert self.engine.cancel(name)
            del self.texts[name]

    @rule()
    def fail(self) -> None:
        """The next step is broken off by whatever it is."""
        call, broken = self.program.__class__.__call__, []

        class Once(FakeProgram):
            def __call__(inner, inputs: Any, state: Any) -> Any:
                if not broken:
                    broken.append(True)
                    raise RuntimeError("once")
                return call(inner, inputs, state)

        self.program.__class__ = Once

    @invariant()
    def pages_are_in_order(self) -> None:
        assert self.engine.problems() == []


Machine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestMachine = pytest.mark.slow(Machine.TestCase)
"""Up to 10,000 random operations."""
