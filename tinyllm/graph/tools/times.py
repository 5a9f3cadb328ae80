"""Where the time of a step goes, node by node: medians over several runs of one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tinyllm.graph.observe import Observe, Ran


@dataclass(frozen=True)
class StepTimes:
    """Seconds. nodes: each node that ran, in order, with the time that it took. whole: of the step that nobody
    observes."""

    nodes: list[Ran]
    whole: float


def step_times(step: Callable[[Observe | None], object], runs: int) -> StepTimes:
    """The times of a step that may be run again and again.

    Args:
        step: runs it, telling an observer of each node where there is one; see `Program`.
        runs: of either kind, after one that does not count. Those that nobody observes come one after the other, as in
            real use, and then the others.
    """
    whole, observed = [], []
    for run in range(runs + 1):
        start = time.perf_counter()
        step(None)
        whole += [time.perf_counter() - start] if run else []
    for run in range(runs + 1):
        told: list[Ran] = []
        step(told.append)
        observed += [told] if run else []
    nodes = [Ran(same[0].node, median(ran.seconds for ran in same)) for same in zip(*observed, strict=True)]
    return StepTimes(nodes, median(whole))
