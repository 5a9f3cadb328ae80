"""Two programs of one model side by side, node by node: the first whose outputs are past its bound, and how far the
values of the two have grown apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyllm.conformance.array_file import read_arrays, write_arrays
from tinyllm.conformance.compared_model import ComparedModel, make_steps, runner_of
from tinyllm.conformance.node_judge import Guilty, Key, NodeJudge
from tinyllm.engine.model_runner import ModelRunner, StepBatch
from tinyllm.errors import InvalidInputError
from tinyllm.graph.program import Program
from tinyllm.plugins.backend import BoundNode

KIND = "tinyllm_reference"
MAKER = "tinyllm diff --save"
FIELDS = ("ids", "decode", "dtype", "nodes")

Values = dict[Key, np.ndarray]


@dataclass(frozen=True)
class NodeDifference:
    """How far two programs are apart at a node: the greatest difference of an element, relative to the largest number
    of the other program's output, at the step where it is greatest."""

    node: str
    op: str
    kernel: str
    layer: int | None
    step: int
    difference: float


@dataclass(frozen=True)
class ModelDiff:
    """What came of it.

    guilty: nodes past their bounds in the order in which they ran, of both programs. nodes: in the order in which they
    run. judged: how many outputs were held to the reference.
    """

    guilty: list[Guilty]
    nodes: list[NodeDifference]
    judged: int


@dataclass(frozen=True)
class Reference:
    """What a program gave before: its token ids, how many steps of one token there were, the dtype, what its nodes are
    (`signature`), and the values."""

    ids: list[int]
    decode: int
    dtype: str
    nodes: list[list[str]]
    values: Values


def layer_of(name: str) -> int | None:
    """The layer of a node; None before and behind all layers."""
    found = re.match(r"model\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None


def called(program: Program) -> list[BoundNode]:
    """The nodes that are calls, without copies between backends."""
    return [node for node in program.nodes if node.asked is not None]


def signature(program: Program) -> list[list[str]]:
    """What tells the graphs of two programs apart: of each node its name, and op, shapes and attributes as text."""
    found = []
    for node in called(program):
        given = node.asked.attributes if node.asked else {}
        attributes = ", ".join(f"{name}={value}" for name, value in given.items())
        shapes = ", ".join(f"{kind.dtype}{list(kind.shape)}".replace("'", "") for kind in node.types)
        found.append([node.name, f"{node.op}({attributes}) -> {shapes}"])
    return found


def check_same(ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> None:
    """Raises `InvalidInputError` that names the first node in which two graphs differ."""
    for number in range(max(len(ours), len(theirs))):
        one, other = (" ".join(nodes[number]) if number < len(nodes) else "no node" for nodes in (ours, theirs))
        if one != other:
            raise InvalidInputError(f"diff: the two graphs differ at node {number}: {one}; against {other}")


@dataclass
class _Side:
    """A program that runs, and the judge of its nodes."""

    runner: ModelRunner
    judge: NodeJudge

    def step(self, number: int, batch: StepBatch) -> Values:
        """Run a step; gives the outputs of its nodes."""
        values: Values = {}
        self.runner.step(batch, self.judge.observer(number, values), True)
        return values


def diff_programs(
    model: ComparedModel,
    ours: Program,
    against: Program | Reference,
    steps: Sequence[StepBatch],
    wanted: Callable[[str], bool] = lambda name: True,
    told: Callable[[str], None] = lambda name: None,
) -> ModelDiff:
    """Run both step by step, and hold each node to the reference. The values of one step are held at a time.

    Args:
        against: another program of the model, or the values that one gave before, which are not judged.
        wanted: whether a node of this name is judged. told: called with each node that was.

    Raises:
        InvalidInputError: the two are of different graphs.
    """
    saved = against if isinstance(against, Reference) else None
    check_same(signature(ours), saved.nodes if saved else signature(against))  # type: ignore[arg-type]
    programs = [ours] if isinstance(against, Reference) else [ours, against]
    sides = [_Side(runner_of(program, steps), NodeJudge(model, wanted, told)) for program in programs]
    nodes = called(ours)
    worst: dict[str, NodeDifference] = {}
    for number, batch in enumerate(steps):
        values, *rest = (side.step(number, batch) for side in sides)
        others = saved.values if saved else rest[0]
        for node in nodes:
            apart = max(
                difference(values[number, node.name, out], others[number, node.name, out]) for out in node.outputs
            )
            there = worst.get(node.name)
            if there is None or apart > there.difference:
                where = layer_of(node.name)
                worst[node.name] = NodeDifference(node.name, node.op, node.kernel, where, number, apart)
    order = {node.name: place for place, node in enumerate(nodes)}
    found = [guilty for side in sides for guilty in side.judge.guilty]
    found.sort(key=lambda guilty: (guilty.step, order[guilty.node.name]))
    return ModelDiff(found, [worst[node.name] for node in nodes], sum(side.judge.judged for side in sides))


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest difference of an element, relative to the largest number of `theirs`; infinite where only one of the
    two is a number, 1 where integers differ.

    Raises:
        InvalidInputError: arrays of two shapes.
    """
    if ours.shape != theirs.shape:
        raise InvalidInputError(f"diff: shapes differ: {list(ours.shape)} against {list(theirs.shape)}")
    if ours.dtype.kind in "biu":
        return float(not np.array_equal(ours, theirs))
    with np.errstate(all="ignore"):
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        apart = np.abs(np.where(np.isfinite(b), a - b, 0.0)).max(initial=0.0)
        size = np.abs(np.where(np.isfinite(b), b, 0.0)).max(initial=0.0)
    return float(apart / size) if size else float(apart > 0)


def reference_of(model: ComparedModel, program: Program, ids: Sequence[int], decode: int) -> Reference:
    """What a program gives, to be compared with later. All values of all steps are held."""
    steps = make_steps(ids, decode)
    side, values = _Side(runner_of(program, steps), NodeJudge(model, wanted=lambda name: False)), Values()
    for number, batch in enumerate(steps):
        values |= side.step(number, batch)
    return Reference(list(ids), decode, model.graph.dtype, signature(program), values)


def write_reference(path: Path, reference: Reference) -> None:
    """Raises `TinyllmError` where the file cannot be written."""
    about = {name: getattr(reference, name) for name in FIELDS}
    arrays = {f"{step}/{node}/{output}": array for (step, node, output), array in reference.values.items()}
    write_arrays(path, KIND, about, arrays)


def read_reference(path: Path) -> Reference:
    """Raises `InvalidInputError` for a file that is not there or no reference."""
    about, arrays = read_arrays("diff: --against", path, KIND, MAKER, FIELDS)
    values = Values()
    for key, array in arrays.items():
        step, node, output = key.split("/")
        values[int(step), node, output] = array
    return Reference(**about, values=values)
