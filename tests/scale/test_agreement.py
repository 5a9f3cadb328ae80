"""The simulator against real engines whose steps take as long as the table says."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from tests.openai.fakes import make_llm
from tests.scale.agreement import SIZES, Measured, Replica, mean, requests
from tinyllm.engine.entry import Part
from tinyllm.scale.policy import POLICIES, make_policy
from tinyllm.scale.simulate.run import Simulated, simulate
from tinyllm.scale.simulate.step_times import StepTimes

TIMES = StepTimes((0, 128), (0, 1, 4), ((0.0, 0.02, 0.03), (0.25, 0.27, 0.29)))


class TableTime:
    """A clock that goes on by what the table says of each step that any engine runs."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def watch(self, replica: Replica) -> None:
        scheduler = replica.engine.scheduler
        done = scheduler.done

        def ran(parts: list[Part]) -> None:
            decoding = sum(len(part.tokens) == 1 for part in parts)
            self.now += TIMES.nanoseconds(sum(len(part.tokens) for part in parts) - decoding, decoding)
            done(parts)

        scheduler.done = ran  # type: ignore[method-assign]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("replicas", [1, 2])
def test_simulated_replicas_do_what_engines_do(replicas: int, policy: str) -> None:
    """The same choices, the same tokens found in caches, and every time to the nanosecond."""
    trace, clock = requests(40, 4.0 * replicas), TableTime()
    real = Measured(make_llm(), trace, replicas, make_policy(policy, 2, SIZES.pages), clock)
    for replica in real._replicas:
        clock.watch(replica)
    found, virtual = real.run(), simulate(trace, replicas, make_policy(policy, 2, SIZES.pages), TIMES, SIZES)
    for field in fields(Simulated):
        if field.name != "warm":  # a router does not tell what it took for warm
            assert np.array_equal(getattr(found, field.name), getattr(virtual, field.name)), field.name
    waits = virtual.first - virtual.came
    assert virtual.reused and waits.max() > 3 * waits.min()  # the load is one at which choices matter


def test_the_mean_of_two_tables() -> None:
    twice = StepTimes(TIMES.prompt_tokens, TIMES.decoding, tuple(tuple(3 * s for s in row) for row in TIMES.seconds))
    assert mean(TIMES, twice).seconds[1] == pytest.approx((0.5, 0.54, 0.58))
