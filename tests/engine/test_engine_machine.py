"""Engines by random operations, as a state machine: one with pages of a fixed size, one with pages that grow."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.engine.bookkeeping import engine_problems
from tests.engine.fakes import Clock, FakeProgram, alone, engine, sequence
from tinyllm.engine.engine import QueueFullError


class Machine(RuleBasedStateMachine):
    """Random requests, steps, cancellations and failures: no page is ever lost or shared wrongly, and replies are
    right."""

    cache: ClassVar[dict[str, Any]] = {"pages": 24}

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.program = FakeProgram()
        self.engine = engine(self.program, clock=self.clock, max_running=4, max_waiting=6, **self.cache)
        self.number = 0
        self.texts: dict[str, str] = {}
        self.prompts: dict[str, tuple[str, dict[str, Any]]] = {}

    @rule(
        prompt=st.text("ab", min_size=1, max_size=40),
        tokens=st.integers(1, 30),
        priority=st.integers(-1, 1),
        late=st.booleans(),
    )
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
        assert engine_problems(self.engine) == []


class GrowingMachine(Machine):
    """The same where each sequence has a page of its own, which grows, three at a time."""

    cache: ClassVar[dict[str, Any]] = {"pages": 3, "largest_page": 100}


SETTINGS = settings(
    max_examples=100,
    stateful_step_count=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
for machine in (Machine, GrowingMachine):
    machine.TestCase.settings = SETTINGS
TestMachine = pytest.mark.slow(Machine.TestCase)
"""Up to 10,000 random operations."""
TestGrowingMachine = pytest.mark.slow(GrowingMachine.TestCase)
"""The same."""
