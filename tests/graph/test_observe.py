"""What an observer of a program is told: every node in order, its time, and what went in and came out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tests.graph.test_program import IDS, QUANTIZED, TOLERANCE, made, program
from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step
from tinyllm.graph.observe import Ran
from tinyllm.graph.program import Program
from tinyllm.plugins.backend import on_host

MIXED = ["linear=torch,rms_norm=torch,*=numpy"] if "torch" in backends() else []
SELECTIONS = [*backends(), *MIXED]


def watched(bound: Program, values_told: bool) -> tuple[np.ndarray, list[Ran]]:
    """The logits of a prompt, and what its step told."""
    told: list[Ran] = []
    batch = make_step([Chunk(IDS, 0, [0, 1], len(IDS))], 8)
    return ModelRunner(bound, 2, 8).step(batch, told.append, values_told), told


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("values_told", [False, True])
def test_every_node_is_told_in_order(selection: str, values_told: bool) -> None:
    """Those of linked runs and copies too, each with its time; the numbers stay the same."""
    bound = program(selection, tensors=made(quantized=QUANTIZED))
    got, told = watched(bound, values_told)
    assert [ran.node for ran in told] == list(bound.nodes)
    assert {n.name: n.kernel for n in bound.nodes if n.call} == bound.report.kernels
    assert all(n.kernel.startswith((f"{n.backend.name}/", "*/")) for n in bound.nodes if n.call)
    assert all(ran.seconds >= 0 for ran in told) and sum(ran.seconds for ran in told) > 0
    assert all(bool(ran.outputs) == values_told for ran in told)
    plain = ModelRunner(bound, 2, 8).step(make_step([Chunk(IDS, 0, [0, 1], len(IDS))], 8))
    np.testing.assert_allclose(got, plain, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_an_observer_gives_back_takes_the_place_of_outputs(selection: str) -> None:
    """Of the last node, of which the logits are; in linked runs too, and only where values are told."""
    bound = program(selection, tensors=made(quantized=QUANTIZED))
    last = [node for node in bound.nodes if node.asked is not None][-1]

    def doubled(ran: Ran) -> dict[str, Any] | None:
        if ran.node is not last or not ran.outputs:
            return None
        return {name: last.backend.from_numpy(2 * on_host(last.backend, y)) for name, y in ran.outputs.items()}

    batch, runner = make_step([Chunk(IDS, 0, [0, 1], len(IDS))], 8), ModelRunner(bound, 2, 8)
    plain, unseen, other = runner.step(batch), runner.step(batch, doubled), runner.step(batch, doubled, True)
    np.testing.assert_allclose(unseen, plain, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(other, 2 * plain, atol=2 * TOLERANCE, rtol=0)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_values_have_the_names_and_types_that_the_graph_says(selection: str) -> None:
    """What a node reads is what an earlier one gave; arrays are of the node's backend, and sizes mean one thing."""
    got, told = watched(program(selection, tensors=made(quantized=QUANTIZED)), True)
    made_before: dict[int, Any] = {}
    sizes: dict[str, int] = {"T": len(IDS), "R": len(IDS)}
    for ran in told:
        node = ran.node
        if node.call is not None:
            spec = registry().specs[node.op]
            assert {i.name for i in spec.positional} <= set(ran.inputs) <= {i.name for i in spec.inputs}
            assert node.asked is not None and set(ran.inputs) <= set(node.asked.inputs)
            for number, value in zip(node.sources, ran.inputs.values(), strict=True):
                assert made_before.get(number, value) is value
        for number, kind, value in zip(node.targets, node.types, ran.outputs.values(), strict=True):
            made_before[number] = value
            array = on_host(node.backend, value)
            named = dict(zip(kind.shape, array.shape, strict=True))
            assert all(sizes.setdefault(str(name), size) == size for name, size in named.items() if type(name) is str)
            assert all(name == size for name, size in named.items() if type(name) is int)
            assert str(array.dtype) == kind.dtype
    np.testing.assert_array_equal(on_host(told[-1].node.backend, told[-1].outputs["y"]), got)


def test_outputs_that_are_many_have_numbers() -> None:
    split = next(node for node in program("numpy").nodes if node.op == "split_heads")
    assert split.outputs == ("parts:0", "parts:1") and len(split.types) == 2


@pytest.mark.skipif("native" not in backends(), reason="needs a backend that links")
def test_a_linked_step_stays_one_call_where_no_values_are_told() -> None:
    """Its nodes are timed by the library itself: no kernel of theirs is called by itself."""
    bound = program("native", tensors=made(quantized=QUANTIZED))
    (step,) = bound.steps
    assert step.run is not None and len(bound.nodes) == len(step.run.nodes)
    calls: list[str] = []
    for node in bound.nodes:
        object.__setattr__(node, "function", lambda *arrays, name=node.name: calls.append(name))
    assert len(watched(bound, False)[1]) == len(bound.nodes) and not calls
