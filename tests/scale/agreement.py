"""How far simulated replicas agree with real ones: `python -m tests.scale.agreement MODEL`.

The same requests go through `simulate`, and through real engines of the model, an engine for each replica. The clock
of an engine is the processor time that its own steps took, so that one process runs as many replicas as are asked for,
each as if it had a core of its own, however busy the machine is. Run it with TINYLLM_NATIVE_THREADS=1.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

import numpy as np

from tinyllm.llm import LLM, load
from tinyllm.models.download.sources import resolve
from tinyllm.scale.policy import Fleet, make_policy
from tinyllm.scale.simulate.measure import measure
from tinyllm.scale.simulate.replica import ReplicaSizes, SimulatedSequence
from tinyllm.scale.simulate.result import row, summarise
from tinyllm.scale.simulate.run import Simulated, simulate
from tinyllm.scale.simulate.trace import TraceRequest

SIZES = ReplicaSizes(pages=64, page_size=64, max_step_tokens=128, max_running=4)


def requests(count: int, rate: float) -> list[TraceRequest]:
    """Prompts of 64 to 192 tokens, half of them with a block in common, and replies of 8 to 24."""
    random = np.random.default_rng(0)
    at = np.cumsum(random.exponential(1e3 / rate, count))
    lengths, replies = random.integers(64, 193, count), random.integers(8, 25, count)
    ids = [int(n) if n % 2 else 10_000 + n % 4 for n in range(count)]
    return [TraceRequest(float(at[n]), int(lengths[n]), int(replies[n]), (ids[n],)) for n in range(count)]


class Replica:
    """A real engine, whose time is what its steps took."""

    def __init__(self, llm: LLM) -> None:
        self.engine = llm.engine(
            SIZES.most_tokens, SIZES.page_size, max_step_tokens=SIZES.max_step_tokens, max_running=SIZES.max_running
        )
        self.now = 0.0
        self.busy = 0.0

    def step(self) -> list[Any]:
        began = time.process_time()
        events = self.engine.step()
        self.busy += (took := time.process_time() - began)
        self.now += took
        return events


def measured(llm: LLM, trace: list[TraceRequest], count: int, policy_name: str) -> Simulated:
    """The trace on real engines."""
    replicas, fleet = [Replica(llm) for _ in range(count)], Fleet(count)
    policy = make_policy(policy_name, 4, SIZES.pages)
    fleet.healthy[:] = True
    first, ended, went = np.zeros(len(trace)), np.zeros(len(trace)), np.zeros(len(trace), np.int32)
    coming, tokens = deque(enumerate(trace)), np.zeros(count, np.int64)
    while coming or any(replica.engine.has_work for replica in replicas):
        working = [replica for replica in replicas if replica.engine.has_work]
        earliest = min((replica.now for replica in working), default=np.inf)
        if coming and coming[0][1].at / 1e3 <= earliest:
            number, request = coming.popleft()
            fake = SimulatedSequence(request, number)
            keys = fake.keys(SIZES.page_size)
            choice = policy.choose(fleet, keys)
            assert choice is not None
            policy.sent(choice.replica, keys)
            went[number] = choice.replica
            fleet.in_flight[choice.replica] += 1
            replica = replicas[choice.replica]
            if not replica.engine.has_work:
                replica.now = request.at / 1e3
            random = np.random.default_rng(request.hash_ids[0])
            prompt = random.integers(0, llm.config.vocab_size, request.input_length).tolist()
            params = llm.sampling({"max_tokens": request.output_length, "temperature": 0.0, "ignore_eos": True})
            replica.engine.add(str(number), [llm.sequence(prompt, True, params)])
            continue
        replica = min(working, key=lambda replica: replica.now)
        for event in replica.step():
            if event.error is not None:
                raise event.error
            number, place = int(event.request), replicas.index(replica)
            first[number] = first[number] or replica.now
            tokens[place] += len(event.piece.token_ids)
            if event.piece.finish_reason is not None:
                ended[number] = replica.now
                fleet.in_flight[place] -= 1
    nanoseconds = [(1e9 * times).astype(np.int64) for times in (first, ended)]
    return Simulated(
        came=np.array([round(1e6 * request.at) for request in trace], np.int64),
        first=nanoseconds[0],
        ended=nanoseconds[1],
        went=went,
        warm=np.zeros_like(went),
        written=np.array([request.output_length for request in trace], np.int32),
        prompt_tokens=sum(request.input_length for request in trace),
        reused=sum(replica.engine.scheduler.prefix_tokens for replica in replicas),
        preemptions=sum(replica.engine.scheduler.preemptions for replica in replicas),
        tokens=tokens,
        busy=np.array([1e9 * replica.busy for replica in replicas]).astype(np.int64),
    )


def main() -> None:
    """Print a row of each, for one replica and for two."""
    llm = load(resolve(sys.argv[1] if len(sys.argv) > 1 else "smollm2"), sys.argv[2] if len(sys.argv) > 2 else "native")
    table = measure(llm, (0, 16, 64, 128), (0, 1, 2, 4), 128, clock=time.process_time)
    print(table, flush=True)
    # one replica is busy for about half of the time
    rate = 0.5 / (table.nanoseconds(128, 1) + 16 * table.nanoseconds(0, 1)) * 1e9
    for count in (1, 2):
        trace = requests(40, rate * count)
        real = measured(llm, trace, count, "warm")
        virtual = simulate(trace, count, make_policy("warm", 4, SIZES.pages), table, SIZES)
        for name, found in (("measured", real), ("simulated", virtual)):
            print(count, *row(summarise(name, found)), sep="\t", flush=True)


if __name__ == "__main__":
    main()
