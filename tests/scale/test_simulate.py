"""Replicas in virtual time: the same as a step at a time, and what policies are for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.bookkeeping import pool_problems
from tinyllm.engine.page_pool import Key, page_keys
from tinyllm.errors import InvalidInputError
from tinyllm.scale.policy import POLICIES, make_policy
from tinyllm.scale.simulate.replica import ReplicaSizes, SimulatedReplica, SimulatedSequence
from tinyllm.scale.simulate.run import Simulated, simulate
from tinyllm.scale.simulate.step_times import StepTimes
from tinyllm.scale.simulate.trace import BLOCK, TraceRequest, made_up

TIMES = StepTimes((0, 512), (0, 1, 8), ((0.0, 0.011, 0.0173), (0.25, 0.26, 0.29)))
SMALL = ReplicaSizes(pages=24, page_size=64, max_step_tokens=128, max_running=3)


def run(trace: list[TraceRequest], replicas: int, policy: str = "warm", **options: object) -> Simulated:
    return simulate(trace, replicas, make_policy(policy, 2, 64), TIMES, SMALL, **options)  # type: ignore[arg-type]


KNOWN_RUNS = {
    "warm": (7465332261330, 7827634057951, 61876, 274304, 1),
    "least-loaded": (12797426971341, 13108981427873, 65193, 129728, 0),
    "round-robin": (12707978727020, 13018467593595, 67650, 132256, 0),
}
"""Sums of times and places, tokens found in caches, and sequences put off."""

REQUESTS = st.lists(
    st.builds(
        lambda at, groups, extra, reply: TraceRequest(float(at), 512 * (len(groups) - 1) + extra, reply, tuple(groups)),
        st.integers(0, 3000),
        st.lists(st.integers(0, 2), min_size=1, max_size=2),
        st.integers(1, 300),
        st.integers(1, 150),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=80, deadline=None)
@given(trace=REQUESTS, replicas=st.integers(1, 2), policy=st.sampled_from(POLICIES))
def test_equal_steps_at_once_are_the_same_as_one_by_one(trace: list[TraceRequest], replicas: int, policy: str) -> None:
    """Every time of every request, and every count: also where pages run out and replies are put off."""
    trace = sorted(trace, key=lambda request: request.at)
    jumped, stepped = (run(trace, replicas, policy, one_by_one=one_by_one) for one_by_one in (False, True))
    for field in fields(Simulated):
        assert np.array_equal(getattr(jumped, field.name), getattr(stepped, field.name)), field.name
    assert jumped.tokens.sum() == sum(request.output_length for request in trace)
    assert (jumped.came < jumped.first).all() and (jumped.first <= jumped.ended).all()


def test_known_runs() -> None:
    """What came of fixed requests before the simulator was made faster: nothing that makes it so may change a time."""
    trace = list(made_up(300, 6.0, 5, 1000, 100, 90, seed=5))
    sizes = ReplicaSizes(pages=64, page_size=32, max_step_tokens=256, max_running=16)
    for policy, known in KNOWN_RUNS.items():
        found = simulate(trace, 4, make_policy(policy, 4, 64), TIMES, sizes)
        sums = (int(found.first.sum()), int(found.ended.sum()), int((found.went * np.arange(300)).sum()))
        assert (*sums, found.reused, found.preemptions) == known, policy


@settings(max_examples=60, deadline=None)
@given(requests=REQUESTS, page_size=st.sampled_from([1, 48, 64, 600]))
def test_names_of_pages_tell_apart_what_hashes_do(requests: list[TraceRequest], page_size: int) -> None:
    """Hashes of tokens that are all the hash id of their block, those of a reply a number that nobody else has."""
    names, hashes = list[Key](), list[Key]()
    for number, request in enumerate(requests):
        pages, prompt = request.total // page_size, np.repeat(request.hash_ids, BLOCK)[: request.input_length]
        names += SimulatedSequence(request, number, page_size).page_keys(pages, page_size, b"", [])
        hashes += page_keys([*prompt.tolist(), *[-1 - number] * request.output_length], page_size)
    assert len(names) == len(hashes)
    assert len({*names}) == len({*hashes}) == len({*zip(names, hashes, strict=True)})


def test_pages_run_out_somewhere_above() -> None:
    """Otherwise the test above says nothing of that."""
    trace = [TraceRequest(0.0, 300, 600, (n,)) for n in range(3)]
    jumped, stepped = (run(trace, 1, one_by_one=one_by_one) for one_by_one in (False, True))
    assert jumped.preemptions == stepped.preemptions > 0 and (jumped.ended == stepped.ended).all()


def test_one_request_takes_the_steps_of_the_table() -> None:
    found = run([TraceRequest(5.0, 128 + 64, 3, (7,))], 1)
    first, second = TIMES.nanoseconds(128, 0), TIMES.nanoseconds(64, 0)
    assert found.first.tolist() == [5_000_000 + first + second]
    assert found.ended.tolist() == [5_000_000 + first + second + 2 * TIMES.nanoseconds(0, 1)]


def test_a_shared_prefix_is_read_once() -> None:
    trace = [TraceRequest(1e4 * n, 512 + 10, 2, (1, 10 + n)) for n in range(3)]
    assert run(trace, 1).reused == 2 * 512


def test_no_page_is_lost() -> None:
    replica = SimulatedReplica(SMALL, TIMES, lambda number, now: None, lambda number, now: None)
    for number, request in enumerate(made_up(20, 1000.0, 2, 512, 100, 50)):
        replica.add(0, SimulatedSequence(request, number, SMALL.page_size))
    while replica.ends is not None:
        replica.end_steps()
        entries = [*replica.scheduler.running, *replica.scheduler.waiting]
        assert pool_problems(replica.pool, [entry.sequence.pages for entry in entries]) == []
    assert replica.pool.held == 0


def test_warm_reads_less_and_loads_as_evenly() -> None:
    """As round robin, where replicas together can hold all prefixes and one alone cannot."""
    trace = list(made_up(600, 12.0, 8, 512, 64, 16, seed=3))
    sizes = ReplicaSizes(pages=48, max_running=8)
    warm, turns = (simulate(trace, 2, make_policy(name, 2, 48), TIMES, sizes) for name in ("warm", "round-robin"))
    missed = [found.prompt_tokens - found.reused for found in (warm, turns)]
    assert missed[0] < missed[1] / 1.5
    assert np.percentile(warm.first - warm.came, 99) <= np.percentile(turns.first - turns.came, 99)
    assert warm.busy.max() < 1.5 * warm.busy.min()


def test_what_cannot_be_simulated(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cache-tokens: expected at least the 2001 of request 1, got 1536"):
        run([TraceRequest(0.0, 2000, 1, (0, 1, 2, 3))], 1)
    with pytest.raises(InvalidInputError, match="replicas: expected an integer of at least 1, got 0"):
        run([TraceRequest(0.0, 2, 1, (0,))], 0)
