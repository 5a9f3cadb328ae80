"""Where the time of a step goes: every node is told, with the median of its seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.catalogue.harness import backends, registry
from tests.graph.test_program import IDS, program
from tests.graph.tiny import CONFIG, LAYER
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.observe import Ran
from tinyllm.graph.tools.times import step_times
from tinyllm.graph.tools.weight_bytes import weight_bytes
from tinyllm.models.decoder.config import MoeConfig


@pytest.mark.parametrize("backend", backends())
def test_every_node_has_its_time(backend: str) -> None:
    """Those of a linked run as well, in the order of the graph, and views take none on native."""
    bound = program(backend)
    runner = ModelRunner(bound, 1, 16)
    batch = make_step([Chunk(IDS, 0, [0])], 16)
    times = step_times(lambda observe: runner.step(batch, observe), 2)
    names = [node.name for node in bound.nodes]
    assert [node.name for node, _ in times.nodes] == names
    of_products = sum(seconds for node, seconds in times.nodes if node.op == "linear")
    assert times.whole > 0 and of_products > 0
    by_kernel = times.by_kernel()
    assert sum(count for count, _ in by_kernel.values()) == len(names)
    assert sum(seconds for _, seconds in by_kernel.values()) == pytest.approx(sum(s for _, s in times.nodes))
    assert list(by_kernel.values()) == sorted(by_kernel.values(), key=lambda found: -found[1])


def test_it_is_the_median_of_the_runs_that_count() -> None:
    """The first step of either kind counts for nothing."""
    node = program("numpy").nodes[0]
    told = iter([9.0, 3.0, 1.0, 2.0])

    def step(observe: Any) -> None:
        if observe:
            observe(Ran(node, next(told)))

    assert step_times(step, 3).nodes == [(node, 2.0)]


def test_a_mixture_reads_the_experts_that_are_named() -> None:
    """Of two tokens four of the five at most, of a table their rows, of other matrices all; norms count as none."""
    mixture = replace(LAYER, mlp=MoeConfig(24, 5, 2))
    bound = program("numpy", replace(CONFIG, layers=(mixture,)))
    read: dict[str, int] = {}
    for node in bound.nodes:
        size = weight_bytes(node, registry().specs, {"T": 2, "R": 2})
        read[node.op] = read.get(node.op, 0) + size
    hidden, matrices = 64, {"q": 64, "k": 32, "v": 32, "o": 64, "router": 5, "head": 61}
    assert read["linear"] == 4 * hidden * sum(matrices.values())
    assert 0 <= read["moe_experts"] - 4 * (4 * 3 * 24 * hidden) < 4 * 5 * hidden
    assert 0 < read["embedding"] < 4 * 5 * hidden and not read["rms_norm"]
