"""Where the time of a step goes, node by node: medians over several runs of one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tinyllm.graph.observe import Observe, Ran
from tinyllm.plugins.backend import BoundNode


@dataclass(frozen=True)
class StepTimes:
    """Seconds. nodes: each node that ran, in order, with the time that it took. whole: of the step that nobody
    observes."""

    nodes: list[tuple[BoundNode, float]]
    whole: float

    def by_kernel(self) -> dict[str, tuple[int, float]]:
        """Per kernel how many nodes it ran and the time of all of them, the longest first."""
        found: dict[str, tuple[int, float]] = {}
        for node, seconds in self.nodes:
            count, before = found.get(node.kernel, (0, 0.0))
            found[node.kernel] = count + 1, before + seconds
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def step_times(step: Callable[[Observe | None], object], runs: int) -> StepTimes:
    """The times of a step that may be run again and again.

    Args:
        step: runs it, telling an observer of each node where there is one; see `Program`.
        runs: of either kind; the first two steps count for neither.
    """
    step(None)
    step(lambda ran: None)
    whole, observed = [], []
    for _ in range(runs):
        start = time.perf_counter()
        step(None)
        whole.append(time.perf_counter() - start)
        told: list[Ran] = []
        step(told.append)
        observed.append(told)
    nodes = [(same[0].node, median(ran.seconds for ran in same)) for same in zip(*observed, strict=True)]
    return StepTimes(nodes, median(whole))
