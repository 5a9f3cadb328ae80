"""How far simulated replicas agree with real ones: `python -m tests.scale.agreement [MODEL [BACKEND [REQUESTS]]]`.

The same requests go through `simulate`, and through real engines of the model, an engine for each replica. The clock
of an engine is the processor time that its own steps took, so that one process runs as many replicas as are asked for,
each as if it had a core of its own, however busy the machine is. Run it with TINYLLM_NATIVE_THREADS=1.

How fast a core is changes by the minute where others use the machine: so steps are measured before and after the real
run, and the mean of both goes into the simulated one. Exits with 1 where a number differs by more than `MOST`.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import numpy as np

from tinyllm.llm import LLM, load
from tinyllm.models.download.sources import resolve
from tinyllm.scale.policy import Fleet, Policy, make_policy
from tinyllm.scale.simulate.measure import measure
from tinyllm.scale.simulate.replica import ReplicaSizes, SimulatedSequence
from tinyllm.scale.simulate.result import Summary, row, summarise
from tinyllm.scale.simulate.run import Simulated, simulate
from tinyllm.scale.simulate.step_times import StepTimes
from tinyllm.scale.simulate.trace import TraceRequest

SIZES = ReplicaSizes(pages=64, page_size=64, max_step_tokens=128, max_running=4)
MOST = 0.15
"""By how much simulated numbers may differ."""


def requests(count: int, rate: float) -> list[TraceRequest]:
    """Prompts of 64 to 192 tokens, half of them with a block in common, and replies of 8 to 24."""
    random = np.random.default_rng(0)
    at = np.cumsum(random.exponential(1e3 / rate, count))
    lengths, replies = random.integers(64, 193, count), random.integers(8, 25, count)
    ids = [int(n) if n % 2 else 10_000 + n % 4 for n in range(count)]
    return [TraceRequest(float(at[n]), int(lengths[n]), int(replies[n]), (ids[n],)) for n in range(count)]


class Replica:
    """A real engine, whose time is what its steps took, in nanoseconds."""

    def __init__(self, llm: LLM, clock: Callable[[], int]) -> None:
        self.engine = llm.engine(
            SIZES.most_tokens, SIZES.page_size, max_step_tokens=SIZES.max_step_tokens, max_running=SIZES.max_running
        )
        self.clock, self.now, self.busy = clock, 0, 0

    def step(self) -> list[Any]:
        began = self.clock()
        events = self.engine.step()
        self.busy += (took := self.clock() - began)
        self.now += took
        return events


class Measured:
    """The trace on real engines.

    A step is run when its replica's turn comes, whose time is then that of the step's end. What ends with it is told
    to the policy only when a request comes after that time: a router does not see ahead either.
    """

    def __init__(self, llm: LLM, trace: list[TraceRequest], count: int, policy: Policy, clock: Callable[[], int]):
        self._llm, self._trace, self._policy = llm, trace, policy
        self._replicas, self._fleet = [Replica(llm, clock) for _ in range(count)], Fleet(count)
        self._fleet.healthy[:] = True
        self._came = [round(1e6 * request.at) for request in trace]
        self._first, self._ended, self._went = (np.zeros(len(trace), np.int64) for _ in range(3))
        self._ends: list[tuple[int, int]] = []  # times of last tokens that are not told yet, and where
        self._tokens = np.zeros(count, np.int64)

    def run(self) -> Simulated:
        """What came of it, in the form that a simulated run has."""
        coming = deque(range(len(self._trace)))
        while True:
            working = [replica for replica in self._replicas if replica.engine.has_work]
            earliest = min(working, key=lambda replica: replica.now, default=None)
            if coming and (earliest is None or self._came[coming[0]] <= earliest.now):
                self._send(coming.popleft())
            elif earliest is not None:
                self._step(earliest)
            else:
                return self._result()

    def _send(self, number: int) -> None:
        request, came = self._trace[number], self._came[number]
        while self._ends and self._ends[0][0] < came:
            self._fleet.in_flight[heappop(self._ends)[1]] -= 1
        keys = SimulatedSequence(request, number, SIZES.page_size).prefix_keys
        choice = self._policy.choose(self._fleet, keys)
        assert choice is not None
        self._policy.sent(choice.replica, keys)
        self._went[number] = choice.replica
        self._fleet.in_flight[choice.replica] += 1
        replica = self._replicas[choice.replica]
        replica.now = max(replica.now, came)
        random = np.random.default_rng(request.hash_ids[0])
        prompt = random.integers(0, self._llm.config.vocab_size, request.input_length).tolist()
        params = self._llm.sampling({"max_tokens": request.output_length, "temperature": 0.0, "ignore_eos": True})
        replica.engine.add(str(number), [self._llm.sequence(prompt, True, params)])

    def _step(self, replica: Replica) -> None:
        place = self._replicas.index(replica)
        for event in replica.step():
            if event.error is not None:
                raise event.error
            number = int(event.request)
            self._first[number] = self._first[number] or replica.now
            self._tokens[place] += len(event.piece.token_ids)
            if event.piece.finish_reason is not None:
                self._ended[number] = replica.now
                heappush(self._ends, (replica.now, place))

    def _result(self) -> Simulated:
        schedulers = [replica.engine.scheduler for replica in self._replicas]
        return Simulated(
            came=np.array(self._came, np.int64),
            first=self._first,
            ended=self._ended,
            went=self._went.astype(np.int32),
            warm=np.zeros(len(self._trace), np.int32),
            written=np.array([request.output_length for request in self._trace], np.int32),
            prompt_tokens=sum(request.input_length for request in self._trace),
            reused=sum(scheduler.prefix_tokens for scheduler in schedulers),
            preemptions=sum(scheduler.preemptions for scheduler in schedulers),
            tokens=self._tokens,
            busy=np.array([replica.busy for replica in self._replicas], np.int64),
        )


def step_times(llm: LLM) -> StepTimes:
    """How long steps take now, in processor time."""
    return measure(llm, (0, 16, 64, 128), (0, 1, 2, 4), 128, repeats=9, clock=time.process_time)


def mean(a: StepTimes, b: StepTimes) -> StepTimes:
    """The mean of two tables."""
    seconds = (np.array(a.seconds) + np.array(b.seconds)) / 2
    return StepTimes(a.prompt_tokens, a.decoding, tuple(map(tuple, seconds.tolist())), a.about)


def numbers(summary: Summary) -> dict[str, float]:
    """What is compared."""
    assert summary.token_seconds is not None
    of = {"TTFT": summary.first_token, "per token": summary.token_seconds}
    times = {f"{name} {p}": getattr(found, p) for name, found in of.items() for p in ("p50", "p90", "p99")}
    return {"tok/s": summary.tokens_per_second, "busy": summary.busy, **times}


def main() -> int:
    """Print a row of each, for one replica and for two, and by how much the numbers differ."""
    given = dict(enumerate(sys.argv[1:]))
    llm, each = load(resolve(given.get(0, "smollm2")), given.get(1, "native")), int(given.get(2, 150))
    worst = 0.0
    before = step_times(llm)
    for count in (1, 2):
        # each replica is busy for about half of the time
        rate = 0.5 / (before.nanoseconds(128, 1) + 16 * before.nanoseconds(0, 1)) * 1e9
        trace = requests(each * count, rate * count)
        real = Measured(llm, trace, count, make_policy("warm", 4, SIZES.pages), time.process_time_ns).run()
        after = step_times(llm)
        virtual = simulate(trace, count, make_policy("warm", 4, SIZES.pages), mean(before, after), SIZES)
        old, new = (np.array(table.seconds).ravel()[1:] for table in (before, after))  # the first is of nothing
        drift = np.abs(new / old - 1).max()
        before = after
        measured, simulated = (summarise(name, run) for name, run in (("measured", real), ("simulated", virtual)))
        print(count, *row(measured), sep="\t")
        print(count, *row(simulated), sep="\t")
        known = numbers(measured)
        off = {name: value / known[name] - 1 for name, value in numbers(simulated).items()}
        print(count, *(f"{name} {100 * by:+.1f} %" for name, by in off.items()), sep="\t")
        print(count, f"the table changed by up to {100 * drift:.1f} % meanwhile", sep="\t", flush=True)
        worst = max(worst, *map(abs, off.values()))
    return int(worst > MOST)


if __name__ == "__main__":
    raise SystemExit(main())
