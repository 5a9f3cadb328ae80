"""Judges each node of a running program by itself: its outputs against the float64 reference on the very inputs that
it had, within the bounds of the kit. What went wrong before a node is not its fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyllm.conformance.compared_model import ComparedModel
from tinyllm.conformance.example import Example, copied
from tinyllm.conformance.judge import FEWEST, judge
from tinyllm.conformance.node_case import NodeCase
from tinyllm.conformance.run import admitted_factor
from tinyllm.conformance.subject import Subject
from tinyllm.graph.observe import Observe, Ran
from tinyllm.graph.weights import place
from tinyllm.plugins.backend import BoundNode, on_host
from tinyllm.registry.registry import Registry
from tinyllm.spec.types import Call

Outputs = Mapping[str, np.ndarray]
Key = tuple[int, str, str]
"""Of an output: the number of the step, the node, and the op's name for it."""


@dataclass(frozen=True)
class Guilty:
    """A node past its bound. step: its number, that of the prompt being 0. message: what is wrong. case: the call with
    its data, of the first node that was found; of others None."""

    step: int
    node: BoundNode
    message: str
    case: NodeCase | None


@dataclass
class NodeJudge:
    """Judges the nodes of one program, step by step in the order in which they run.

    wanted: whether a node of this name is judged. told: called with each node that was.
    """

    model: ComparedModel
    wanted: Callable[[str], bool] = lambda name: True
    told: Callable[[str], None] = lambda name: None
    guilty: list[Guilty] = field(default_factory=list)
    judged: int = 0
    """How many outputs were held to the reference, an op's several as one."""
    _states: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def __call__(self, step: int, ran: Ran) -> Outputs:
        """Judge a node that ran; gives copies of its outputs on the host, by the op's names for them: of a copy between
        backends none."""
        node, asked = ran.node, ran.node.asked
        if asked is None:
            return {}
        outputs = {name: np.array(on_host(node.backend, value)) for name, value in ran.outputs.items()}
        if self.wanted(node.name):
            example = self._example(ran, asked)
            message = _wrong(self.model.registry, node, example, tuple(outputs.values()))
            if message:
                first = example.with_inputs(**{name: copied(value) for name, value in example.inputs.items()})
                case = None if self.guilty else NodeCase(first, place(node.backend), node.kernel, node.name)
                self.guilty.append(Guilty(step, node, message, case))
            self.judged += 1
            self.told(node.name)
        for name in self.model.registry.spec(node.op).consumes:
            self._states[node.name, name] = outputs[name]
        return outputs

    def observer(self, step: int, values: MutableMapping[Key, np.ndarray] | None = None) -> Observe:
        """What judges the nodes of a step, and keeps copies of their outputs in `values`."""

        def observe(ran: Ran) -> None:
            for name, output in self(step, ran).items():
                if values is not None:
                    values[step, ran.node.name, name] = output

        return observe

    def _example(self, ran: Ran, asked: Call) -> Example:
        """The node's call with its inputs as they were: weights as the checkpoint holds them, and of what the op has
        overwritten by now what it had left there the step before."""
        node, spec = ran.node, self.model.registry.spec(ran.node.op)
        inputs: dict[str, Any] = {}
        for name, value in ran.inputs.items():
            origin = self.model.nodes[node.name].inputs[name]
            if origin in self.model.merged.weights:
                inputs[name] = self.model.weight(origin, asked.inputs[name])
            elif name in spec.consumes:
                before = self._states.get((node.name, name))
                inputs[name] = np.zeros_like(on_host(node.backend, value)) if before is None else before
            else:
                inputs[name] = on_host(node.backend, value)
        given = asked.attributes
        attributes = {a.name: given[a.name] for a in spec.attributes if given[a.name] != a.default}
        return Example(spec, node.name, self.model.graph.dtype, inputs, attributes)


def _wrong(registry: Registry, node: BoundNode, example: Example, outputs: tuple[np.ndarray, ...]) -> str:
    """What is wrong with a node's outputs; empty where nothing is. Declarations of the kernel hold here, too.

    The mean of few rows says nothing: the elements of a row share sums, so that it is no mean of many errors.
    """
    kernel = next((k for k in registry.plugins.kernels if k.id == node.kernel), None)
    subject = Subject(registry, node.backend, example.spec, kernel)
    admitted = [
        declaration
        for declaration in registry.plugins.declarations
        if declaration.covers(node.backend.name, node.op, subject.name, example.dtype, "", "")
    ]
    factor = admitted_factor(admitted, example.dtype)
    verdict = judge(subject.seen(example), outputs, exact=subject.exact, factor=factor)
    by_mean = bool(verdict.where) and verdict.worst <= verdict.bound
    rows = max(output.size // max(1, output.shape[-1] if output.ndim else 1) for output in outputs)
    return "" if by_mean and rows < FEWEST else verdict.message
