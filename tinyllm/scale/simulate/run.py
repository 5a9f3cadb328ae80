"""A trace through a policy and many replicas, in virtual time: a heap of the times at which steps end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.scale.policy import Fleet, Policy
from tinyllm.scale.simulate.replica import ReplicaSizes, SimulatedReplica, SimulatedSequence
from tinyllm.scale.simulate.step_times import StepTimes
from tinyllm.scale.simulate.trace import TraceRequest

_TOLD = 10_000
"""Requests between two reports of how many are done."""


@dataclass(frozen=True)
class Simulated:
    """What came of a trace: a value for each request `[R]`, in nanoseconds after the start, and one for each replica
    `[N]`.

    came, first, ended: when a request came, had its first token, and its last. went: to which replica. warm: pages of
    its prompt that the policy took for warm. prompt_tokens, reused: tokens of all prompts, and those found in caches.
    tokens: those written by a replica. busy: nanoseconds in which it ran steps.
    """

    came: NDArray[np.int64]
    first: NDArray[np.int64]
    ended: NDArray[np.int64]
    went: NDArray[np.int32]
    warm: NDArray[np.int32]
    written: NDArray[np.int32]
    prompt_tokens: int
    reused: int
    preemptions: int
    tokens: NDArray[np.int64]
    busy: NDArray[np.int64]


def simulate(
    trace: Sequence[TraceRequest],
    replicas: int,
    policy: Policy,
    times: StepTimes,
    sizes: ReplicaSizes | None = None,
    *,
    one_by_one: bool = False,
    report: Callable[[int], Any] = lambda done: None,
) -> Simulated:
    """Run a trace, whose requests come in the order of their times.

    Args:
        one_by_one: run each step by itself, which is slow and gives the same.
        report: told now and then how many requests are done.

    Raises:
        InvalidInputError: a request that is larger than a replica's cache; no replicas.
    """
    sizes = sizes or ReplicaSizes()
    if replicas < 1:
        raise invalid("simulate", "replicas", "an integer of at least 1", str(replicas))
    _check_fits(trace, sizes)
    with _collected_late():
        run = _Run(trace, replicas, policy, times, sizes, one_by_one, report)
        run.all()
    return run.result()


class _Run:
    """The state of a run."""

    def __init__(
        self,
        trace: Sequence[TraceRequest],
        replicas: int,
        policy: Policy,
        times: StepTimes,
        sizes: ReplicaSizes,
        one_by_one: bool,
        report: Callable[[int], Any],
    ) -> None:
        self._trace, self._policy, self._sizes, self._report = trace, policy, sizes, report
        self._replicas = [
            SimulatedReplica(sizes, times, self._on_first, self._on_done, one_by_one) for _ in range(replicas)
        ]
        self._fleet = Fleet(replicas)
        self._fleet.healthy[:] = True
        self._came = np.array([round(1e6 * request.at) for request in trace], np.int64)
        self._first, self._ended = np.zeros_like(self._came), np.zeros_like(self._came)
        self._went, self._warm = (np.zeros(len(trace), np.int32) for _ in range(2))
        self._done = 0

    def all(self) -> None:
        """Run everything. At one time requests come before steps end, and replicas take their turns by number."""
        heap: list[tuple[int, int]] = []
        replicas = self._replicas
        for number, came in enumerate(self._came.tolist()):
            while heap and heap[0][0] < came:
                self._end_steps(heap)
            place = self._send(number, came)
            heappush(heap, (replicas[place].ends or came, place))
        while heap:
            self._end_steps(heap)

    def _end_steps(self, heap: list[tuple[int, int]]) -> None:
        time, place = heappop(heap)
        replica = self._replicas[place]
        if replica.ends == time:  # otherwise its steps end at another time by now, which is in the heap as well
            replica.end_steps()
            if replica.ends is not None:
                heappush(heap, (replica.ends, place))

    def _send(self, number: int, now: int) -> int:
        """Send a request to the replica that the policy chooses."""
        sequence = SimulatedSequence(self._trace[number], number, self._sizes.page_size)
        keys = sequence.prefix_keys
        choice = self._policy.choose(self._fleet, keys)
        if choice is None:
            raise InvalidInputError("simulate: policy: expected a replica, got none")
        place = choice.replica
        self._policy.sent(place, keys)
        self._went[number], self._warm[number] = place, choice.warm
        self._fleet.in_flight[place] += 1
        self._replicas[place].add(now, sequence)
        return place

    def _on_first(self, number: int, now: int) -> None:
        self._first[number] = now

    def _on_done(self, number: int, now: int) -> None:
        self._ended[number] = now
        self._fleet.in_flight[self._went[number]] -= 1
        self._done += 1
        if self._done % _TOLD == 0:
            self._report(self._done)

    def result(self) -> Simulated:
        """What came of it."""
        schedulers = [replica.scheduler for replica in self._replicas]
        return Simulated(
            came=self._came,
            first=self._first,
            ended=self._ended,
            went=self._went,
            warm=self._warm,
            written=np.array([request.output_length for request in self._trace], np.int32),
            prompt_tokens=sum(request.input_length for request in self._trace),
            reused=sum(scheduler.prefix_tokens for scheduler in schedulers),
            preemptions=sum(scheduler.preemptions for scheduler in schedulers),
            tokens=np.array([replica.tokens for replica in self._replicas], np.int64),
            busy=np.array([replica.busy for replica in self._replicas], np.int64),
        )


def _check_fits(trace: Sequence[TraceRequest], sizes: ReplicaSizes) -> None:
    for number, request in enumerate(trace, 1):
        if request.total > sizes.most_tokens:
            expected = f"at least the {request.total} of request {number}"
            raise InvalidInputError(f"simulate: cache-tokens: expected {expected}, got {sizes.most_tokens}")


@contextmanager
def _collected_late() -> Any:
    """Without the collector of circular garbage, which would go through all replicas again and again and find none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
