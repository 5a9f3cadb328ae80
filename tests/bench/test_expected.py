"""The time of a step is made of what was measured: of its nodes, by their kind, and of the step itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import registry
from tinyllm.bench.expected import Speeds, kept_speeds
from tinyllm.bench.limits import Limits
from tinyllm.bench.product_speed import ProductSpeed, kept_product_speed
from tinyllm.bench.step_cost import StepCost, measure_step_cost
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.graph.tools.plan import NodeCost

FOUR = Affine(4, 64)
SPEEDS = Speeds(
    {None: Limits(10.0, 100.0), FOUR: Limits(5.0, 50.0)},
    {None: ProductSpeed({2: 10.0, 8: 20.0, 64: 40.0})},
    StepCost(node=1e-6, step=1e-3, sequence=1e-4),
)


def test_of_each_node_the_longer_of_moving_and_computing() -> None:
    moving, computing = NodeCost("a", "add", "", 10**6, 10**9), NodeCost("b", "add", "", 10**11, 10)
    packed = NodeCost("c", "embedding", "", 0, 10**9, FOUR)
    assert [SPEEDS.node_seconds(cost) for cost in (moving, computing, packed)] == pytest.approx([0.1, 1.0, 0.2])
    total = SPEEDS.step_seconds([moving, computing, packed], 4)
    assert total == pytest.approx(1.3 + 3e-6 + 1e-3 + 4e-4)


def test_each_node_goes_by_the_limits_of_its_own_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured for the schemes that it has there; the step is the first backend's."""
    asked: list[Any] = []

    def limits(registry: Any, backend: str, scheme: Any, *arguments: Any, **more: Any) -> Limits:
        asked.append((backend, scheme))
        return Limits(10.0 if backend == "numpy:cpu" else 1.0, 100.0)

    def step(registry: Any, backend: str, **more: Any) -> StepCost:
        return StepCost(1e-3, 0.25, 0.0) if backend == "numpy:cpu" else StepCost(1e-2, 1e9, 1e9)

    monkeypatch.setattr("tinyllm.bench.expected.kept_limits", limits)
    monkeypatch.setattr("tinyllm.bench.expected.kept_step_cost", step)
    here = NodeCost("a", "add", "", 0, 10**9, backend="numpy:cpu")
    there = NodeCost("b", "embedding", "", 0, 10**9, FOUR, backend="torch:cpu")
    speeds = kept_speeds(registry(), "numpy:cpu", [here, there], 1)
    assert asked == [("numpy:cpu", None), ("torch:cpu", None), ("torch:cpu", FOUR)]
    assert speeds.step_seconds([here, there], 1) == pytest.approx(0.1 + 1e-3 + 1.0 + 1e-2 + 0.25)


def test_products_are_as_fast_as_their_rows_let_them_be() -> None:
    """With one row what is read decides; between what was measured, time grows evenly; past it, speed stays."""

    def seconds(rows: int) -> float:
        return SPEEDS.node_seconds(NodeCost("p", "linear", "", rows * 10**9, 10**7, None, rows))

    assert seconds(1) == pytest.approx(1e-3)
    assert [seconds(rows) for rows in (2, 8, 64, 128)] == pytest.approx([0.2, 0.4, 1.6, 3.2])
    assert seconds(5) == pytest.approx(0.3) and seconds(36) == pytest.approx(1.0)
    times = [seconds(rows) for rows in range(1, 130)]
    assert times == sorted(times)


def test_all_that_the_nodes_need_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A size for the weights of products, each scheme, and the step."""
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path))
    asked: list[Any] = []

    def told(name: str, value: Any) -> Any:
        return lambda *arguments, **more: asked.append((name, *arguments[2:])) or value

    monkeypatch.setattr("tinyllm.bench.expected.kept_limits", told("limits", SPEEDS.limits[None]))
    monkeypatch.setattr("tinyllm.bench.expected.kept_product_speed", told("rows", SPEEDS.products[None]))
    monkeypatch.setattr("tinyllm.bench.expected.kept_step_cost", told("step", SPEEDS.step))
    costs = [NodeCost("a", "add", "", 5, 5), NodeCost("p", "linear", "", 2 * 7 * 640 * 1000, 5, FOUR, 7)]
    made = kept_speeds(registry(), "numpy", costs, 12345)
    assert asked == [("limits", None, 12345), ("limits", FOUR, 12345), ("rows", FOUR, 800), ("step",)]
    assert made.step_seconds(costs, 1) > 0


def test_product_speeds_are_measured_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On squares of the next power of two, of a kind of weight."""
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path))
    monkeypatch.setattr("tinyllm.bench.limits.COPIED", 2**10)
    monkeypatch.setattr("tinyllm.bench.product_speed.SIDES", (64, 128))
    monkeypatch.setattr("tinyllm.bench.product_speed.ROWS", (2, 3))
    told: list[str] = []
    first = kept_product_speed(registry(), "numpy", FOUR, 100, on_step=told.append)
    assert kept_product_speed(registry(), "numpy", FOUR, 10**6, on_step=told.append) == first
    assert list(first.gflop_s) == [2, 3] and min(first.gflop_s.values()) > 0
    assert len(told) == 1 and "affine4/64 128 rows" in told[0]


def test_what_a_step_costs_is_measured_by_its_nodes_and_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three times are taken apart: nothing of them is lost."""
    times = {(2, 1): 0.010, (26, 1): 0.034, (2, 8): 0.024}
    monkeypatch.setattr("tinyllm.bench.step_cost._program", lambda registry, backend, layers: layers)
    monkeypatch.setattr("tinyllm.bench.step_cost._nodes", lambda layers: 10 * layers)
    monkeypatch.setattr("tinyllm.bench.step_cost._seconds", lambda layers, sequences: times[layers, sequences])
    cost = measure_step_cost(registry(), "numpy")
    assert (cost.node, cost.sequence) == (pytest.approx(1e-4), pytest.approx(2e-3))
    for (layers, sequences), seconds in times.items():
        assert cost.seconds(10 * layers, sequences) == pytest.approx(seconds)


def test_a_step_is_measured_on_an_engine() -> None:
    """All of it takes some time, on every node."""
    with np.errstate(all="ignore"):
        cost = measure_step_cost(registry(), "numpy")
    assert min(cost.node, cost.step, cost.sequence) > 0
