"""A model as data: nodes that name ops, the values between them, the weights and states they use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyllm.spec.types import ArrayType, Dim


@dataclass(frozen=True)
class Weight:
    """A parameter. `parts` names the checkpoint's tensors it is stacked from along its first axis; none: it is one
    itself."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors to read from the checkpoint."""
        return self.parts or (self.name,)


@dataclass(frozen=True)
class State:
    """Memory that lives from step to step: pages `[P, *page_shape]`, where `"page"` in `page_shape` is the page
    size."""

    name: str
    page_shape: tuple[Dim, ...]
    dtype: str


@dataclass(frozen=True)
class Node:
    """One op in the graph. `inputs` maps the op's input names to names of values, weights or states."""

    name: str
    op: str
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A whole model.

    inputs, types: per graph input, and per value that a node makes, its type with named sizes (`"T"` tokens).
    updates: per state the value that holds it after the step.
    """

    inputs: Mapping[str, ArrayType]
    weights: Mapping[str, Weight]
    states: Mapping[str, State]
    nodes: tuple[Node, ...]
    types: Mapping[str, ArrayType]
    outputs: tuple[str, ...]
    updates: Mapping[str, str]
    dtype: str

    def consumers(self) -> dict[str, list[Node]]:
        """Per value, weight or state the nodes that read it."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs.values():
                readers.setdefault(name, []).append(node)
        return readers

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The checkpoint tensors this model wants, with their shapes. Asked before weights are merged."""
        return {name: weight.shape for name, weight in self.weights.items()}

    def type_of(self, name: str) -> ArrayType:
        """The type of anything a node may read."""
        if name in self.weights:
            return ArrayType(self.weights[name].shape, self.dtype)
        if name in self.states:
            state = self.states[name]
            return ArrayType(("P", *state.page_shape), state.dtype)
        return self.inputs[name] if name in self.inputs else self.types[name]
