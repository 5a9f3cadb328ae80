"""Runs of nodes that a backend makes one call of: which nodes they are, what they are called with, and that all stays
the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry, with_kernels
from tests.graph.test_program import IDS, QUANTIZED, TOLERANCE, logits, made, program
from tests.graph.tiny import CONFIG, Tensors
from tinyllm.graph.bind import bind
from tinyllm.graph.graph import GraphBuilder
from tinyllm.graph.program import Program
from tinyllm.models.decoder.decoder import decoder
from tinyllm.plugins.backend import Backend, Run
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import parse_selection
from tinyllm.spec.scheme import QuantWeight

STATEFUL = ("kv_append", "paged_attention")

Link = Callable[[Run], Callable[..., tuple[Any, ...]] | None]


@pytest.fixture
def linked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Program]:
    """`linked(link)`: the tiny model on numpy, whose `Backend.link` is that. Kernels that touch the cache are not
    traceable."""

    def binding(link: Link, *, quantized: tuple[str, ...] = (), asked: Registry | None = None) -> Program:
        asked = asked or registry()
        kernels = [replace(k, traceable=k.traceable and k.op not in STATEFUL) for k in asked.plugins.kernels]
        traced = Registry(replace(asked.plugins, kernels=kernels), asked.settings)
        monkeypatch.setattr(traced.backend("numpy"), "link", link)
        graph = decoder(CONFIG, traced.specs)
        return bind(graph, traced, parse_selection("numpy", "test"), made(quantized=quantized))

    return binding


def test_linked_runs_give_the_same(linked: Callable[..., Program]) -> None:
    """Whole runs of neighbours, none of which reads the cache; between them the other steps stay."""
    runs: list[Run] = []

    def link(run: Run) -> Callable[..., tuple[Any, ...]]:
        runs.append(run)
        return lambda *arrays: run(*arrays)

    bound, unlinked = linked(link), program("numpy")
    assert all(len(run.nodes) > 1 for run in runs)
    assert not {node.op for run in runs for node in run.nodes} & {*STATEFUL, "copy"}
    assert [s.op for s in bound.steps].count("run") == len(runs)
    inside = [node.name for run in runs for node in run.nodes]
    outside = [s.name for s in bound.steps if s.op != "run"]
    assert sorted(inside + outside) == sorted(s.name for s in unlinked.steps)
    assert len(inside) == len(set(inside)) > len(outside)
    for cuts in ([], [3], [3, 4, 9]):
        np.testing.assert_array_equal(logits(bound, IDS, cuts), logits(unlinked, IDS, cuts))


def test_neighbours_are_in_one_run(linked: Callable[..., Program]) -> None:
    """No step that could be in a run stands beside another such step, or beside a run."""
    bound = linked(lambda run: run)
    could = [step.op == "run" or step.traceable for step in bound.steps]
    assert (True, True) not in set(pairwise(could))


def test_what_goes_in_and_out(linked: Callable[..., Program]) -> None:
    """In goes what no node inside makes, weights that are arrays included; out comes what is read later, and nothing
    else."""
    runs: list[Run] = []
    steps = linked(lambda run: runs.append(run)).steps
    logits_ = steps[-1].targets
    for run in runs:
        inside = {node.name for node in run.nodes}
        targets = {number for node in run.nodes for number in node.targets}
        sources = {number for node in run.nodes for number in node.sources}
        read_later = {number for step in steps if step.name not in inside for number in step.sources} | {*logits_}
        assert {*run.inputs, *run.constants} == sources - targets
        assert not set(run.inputs) & set(run.constants)
        assert set(run.outputs) == targets & read_later
        assert len(set(run.inputs)) == len(run.inputs) and len(set(run.outputs)) == len(run.outputs)


def test_packed_weights_are_constants(linked: Callable[..., Program]) -> None:
    """They are no arrays, and so are quantized ones; all inputs are arrays."""
    runs: list[Run] = []
    seen: list[tuple[Any, ...]] = []

    def link(run: Run) -> Callable[..., tuple[Any, ...]]:
        runs.append(run)

        def call(*arrays: Any) -> tuple[Any, ...]:
            seen.append(arrays)
            return run(*arrays)

        return call

    def linear(x: np.ndarray, weight: QuantWeight, *, bias: np.ndarray | None = None) -> np.ndarray:
        y = x @ weight.scheme.dequantize(np, weight, x.dtype).T
        return np.asarray(y if bias is None else y + bias)

    as_it_is = Kernel("numpy", "linear", "as_it_is", lambda: linear, priority=99, schemes=("affine",))
    bound = linked(link, quantized=QUANTIZED[:1], asked=with_kernels(as_it_is))
    constants = [value for run in runs for value in run.constants.values()]
    assert sum(isinstance(value, QuantWeight) for value in constants) == 4 * CONFIG.num_layers
    assert {type(value).__name__ for value in constants} == {"QuantWeight", "FloatWeight"}
    got = logits(bound, IDS, [])
    assert seen and all(isinstance(array, np.ndarray) for arrays in seen for array in arrays)
    unlinked = program("numpy", tensors=made(quantized=QUANTIZED[:1]))
    np.testing.assert_allclose(got, logits(unlinked, IDS, []), atol=TOLERANCE, rtol=0)


def test_a_backend_that_gives_nothing_changes_nothing(linked: Callable[..., Program]) -> None:
    asked: list[Run] = []
    bound, unlinked = linked(lambda run: asked.append(run)), program("numpy")
    assert asked
    assert [(s.op, s.name, s.kernel) for s in bound.steps] == [(s.op, s.name, s.kernel) for s in unlinked.steps]
    np.testing.assert_array_equal(logits(bound, IDS, [4]), logits(unlinked, IDS, [4]))


def test_a_backend_may_link_some_runs_and_not_others(linked: Callable[..., Program]) -> None:
    asked: list[Run] = []

    def link(run: Run) -> Callable[..., tuple[Any, ...]] | None:
        asked.append(run)
        return run if len(asked) % 2 else None

    bound = linked(link)
    assert len(asked) > [s.op for s in bound.steps].count("run") == -(-len(asked) // 2)
    np.testing.assert_array_equal(logits(bound, IDS, [4]), logits(program("numpy"), IDS, [4]))


def test_what_a_run_tells_of_its_nodes(linked: Callable[..., Program]) -> None:
    """Op, name and kernel, as the report has them: enough to make a call of one's own."""
    runs: list[Run] = []
    bound = linked(lambda run: runs.append(run))
    for run in runs:
        for node in run.nodes:
            assert bound.report.kernels[node.name] == node.kernel
            assert node.kernel.partition("/")[2].partition(":")[0] == node.op
            assert node.several == (node.op in ("split", "split_heads", "rope_angles"))


def test_by_default_nothing_is_linked() -> None:
    assert Backend.link(registry().backend("numpy"), Run((), (), (), {})) is None
    assert all(step.op != "run" for step in program("numpy").steps)


@pytest.mark.skipif("torch" not in backends(), reason="needs a second backend")
def test_a_run_is_of_one_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing has to be copied between neighbours on two of them."""
    runs: list[list[str]] = []
    for name in ("numpy", "torch"):
        monkeypatch.setattr(
            registry().backend(name), "link", lambda run: runs.append([node.kernel for node in run.nodes])
        )
    g = GraphBuilder(registry().specs, "float32")
    x = g.input("x", (3,), "float32")
    there, here = g.silu(x), g.add(x, x)
    graph = g.build(g.add(here, here), g.silu(g.silu(there)))
    bound = bind(graph, registry(), parse_selection("silu=torch,*=numpy", "test"), Tensors({}))
    assert [step.op for step in bound.steps] == ["copy", "silu", "copy", "add", "add", "silu", "silu"]
    assert runs == [["numpy/add:own"] * 2, ["torch/silu:plain"] * 2]


@pytest.mark.skipif("mlx" not in backends() or shutil.which("g++") is None, reason="needs MLX and its compiler")
def test_mlx_compiles_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does on a GPU: `mx.compile` takes the inputs of a run, and gives what the calls one by one give."""
    import mlx.core as mx

    config = replace(CONFIG, layers=CONFIG.layers[:1])
    unlinked = program("mlx", config)
    monkeypatch.setattr(registry().backend("mlx"), "link", lambda run: mx.compile(lambda *arrays: run(*arrays)))
    bound = program("mlx", config)
    assert any(step.op == "run" for step in bound.steps)
    np.testing.assert_allclose(logits(bound, IDS, []), logits(unlinked, IDS, []), atol=TOLERANCE, rtol=0)
