"""Where the time of a step goes: every node is told, with the median of its seconds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.catalogue.harness import backends
from tests.graph.test_program import IDS, program
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.observe import Ran
from tinyllm.graph.tools.times import step_times


@pytest.mark.parametrize("backend", backends())
def test_every_node_has_its_time(backend: str) -> None:
    """Those of a linked run as well, in the order of the graph, and views take none on native."""
    bound = program(backend)
    runner = ModelRunner(bound, 1, 16)
    batch = make_step([Chunk(IDS, 0, [0])], 16)
    times = step_times(lambda observe: runner.step(batch, observe), 2)
    names = [node.name for node in bound.nodes]
    assert [ran.node.name for ran in times.nodes] == names
    assert times.whole > 0 and sum(ran.seconds for ran in times.nodes if ran.node.op == "linear") > 0


def test_it_is_the_median_of_the_runs_that_count() -> None:
    """The first step of either kind counts for nothing."""
    node = program("numpy").nodes[0]
    told = iter([9.0, 3.0, 1.0, 2.0])

    def step(observe: Any) -> None:
        if observe:
            observe(Ran(node, next(told)))

    assert step_times(step, 3).nodes == [Ran(node, 2.0)]
