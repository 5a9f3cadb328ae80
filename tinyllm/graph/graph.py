"""A model as data: nodes that name ops, the values between them, the weights and states they use.

It is built by calling ops on names instead of arrays, so that it reads like model code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tinyllm.errors import InvalidInputError, UnknownNameError, suggest
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.types import ArrayType, Dim
from tinyllm.spec.validation import check_call, check_names, output_types


@dataclass(frozen=True)
class Weight:
    """A parameter. `parts` names the checkpoint's tensors it is stacked from along its first axis; none: it is one
    itself. value: what all of its numbers are, where no checkpoint has it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[str, ...] = ()
    value: float | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors to read from the checkpoint."""
        return self.parts or (self.name,)


@dataclass(frozen=True)
class State:
    """Memory that lives from step to step: pages `[P, *page_shape]`, where `"page"` in `page_shape` is the page size.
    Without `"page"` they are rows, one for each sequence, however long it is."""

    name: str
    page_shape: tuple[Dim, ...]
    dtype: str

    @property
    def by_sequence(self) -> bool:
        """Whether each sequence has a row of it."""
        return "page" not in self.page_shape


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
        return {name: weight.shape for name, weight in self.weights.items() if weight.value is None}

    def type_of(self, name: str) -> ArrayType:
        """The type of anything a node may read."""
        if name in self.weights:
            return ArrayType(self.weights[name].shape, self.weights[name].dtype)
        if name in self.states:
            state = self.states[name]
            return ArrayType(("P", *state.page_shape), state.dtype)
        return self.inputs[name] if name in self.inputs else self.types[name]


@dataclass(frozen=True)
class Value:
    """A handle on something a node can read."""

    name: str
    type: ArrayType


class GraphBuilder:
    """Collects nodes. `g.rms_norm(x, weight, eps=1e-5)` adds a node for any op of the catalogue and checks it at
    once."""

    def __init__(self, specs: Mapping[str, OpSpec], dtype: str) -> None:
        self._specs = specs
        self.dtype = dtype
        self._scope: list[str] = []
        self._inputs: dict[str, ArrayType] = {}
        self._weights: dict[str, Weight] = {}
        self._states: dict[str, State] = {}
        self._nodes: list[Node] = []
        self._types: dict[str, ArrayType] = {}
        self._updates: dict[str, str] = {}
        self._taken: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of weights, states and nodes made inside."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def _name(self, name: str) -> str:
        return ".".join([*self._scope, name])

    def input(self, name: str, shape: tuple[Dim, ...], dtype: str = "int32") -> Value:
        """Something given at each step."""
        self._inputs[name] = ArrayType(shape, dtype)
        return Value(name, self._inputs[name])

    def weight(self, name: str, shape: tuple[int, ...], dtype: str = "", value: float | None = None) -> Value:
        """A parameter, named as in the checkpoint. The same name again is the same weight (a tied matrix).

        dtype: empty for that of the model, which would round numbers that are finer. value: of all of its numbers,
        where the checkpoint has no tensor for it.
        """
        kind = ArrayType(shape, dtype or self.dtype)
        weight = Weight(self._name(name), shape, kind.dtype, value=value)
        there = self._weights.setdefault(weight.name, weight)
        if there != weight:
            before = ArrayType(there.shape, there.dtype)
            raise InvalidInputError(f"weight {weight.name}: declared as {before} and as {kind}")
        return Value(weight.name, kind)

    def state(self, name: str, page_shape: tuple[Dim, ...], dtype: str = "") -> Value:
        """Pages that live from step to step. dtype: empty for that of the model."""
        state = State(self._name(name), page_shape, dtype or self.dtype)
        self._states[state.name] = state
        return Value(state.name, ArrayType(("P", *page_shape), state.dtype))

    def update(self, state: Value, value: Value) -> None:
        """Say which value a state holds after the step."""
        self._updates[state.name] = value.name

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_") or op not in self._specs:
            raise UnknownNameError(f"unknown op {op!r}.{suggest(op, self._specs)}")
        return partial(self.add_node, op)

    def add_node(self, op: str, *args: Value, name: str | None = None, **kwargs: Any) -> Any:
        """Add a node; gives its output, or a tuple where the op has several.

        Raises:
            InvalidInputError: as the op itself would, sizes known by name only included.
        """
        spec = self._specs[op]
        given = check_names(spec, args, kwargs)
        values = {i.name: given[i.name] for i in spec.inputs if given.get(i.name) is not None}
        attributes = {a.name: given[a.name] for a in spec.attributes if a.name in given}
        call = check_call(spec, {n: v.type for n, v in values.items()}, attributes)
        types = output_types(spec, call)
        base = self._unique(self._name(name or op))
        names = (base,) if len(types) == 1 else tuple(f"{base}:{i}" for i in range(len(types)))
        self._types.update(zip(names, types, strict=True))
        self._nodes.append(Node(base, op, {n: v.name for n, v in values.items()}, names, attributes))
        results = tuple(Value(n, t) for n, t in zip(names, types, strict=True))
        several = len(spec.outputs) > 1 or spec.gives_many
        return results if several else results[0]

    def _unique(self, name: str) -> str:
        count = self._taken[name] = self._taken.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"

    def build(self, *outputs: Value) -> Graph:
        """The graph with these outputs."""
        return Graph(
            self._inputs,
            self._weights,
            self._states,
            tuple(self._nodes),
            self._types,
            tuple(o.name for o in outputs),
            self._updates,
            self.dtype,
        )
