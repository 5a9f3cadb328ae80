"""Binds a graph to backends: every choice is made here, once, and the `Program` that comes out only runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from tinyllm.errors import CheckpointError, UnsupportedError, invalid
from tinyllm.graph.graph import Graph, Node, Weight
from tinyllm.graph.program import Allocation, Program, Report, Step
from tinyllm.graph.regions import compile_regions
from tinyllm.plugins.backend import Backend
from tinyllm.registry.registry import Choice, Registry
from tinyllm.registry.selection import Selection
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.quantized import QuantWeight
from tinyllm.spec.types import ArrayType, QuantType
from tinyllm.spec.validation import check_call

HOST = "host"


class WeightSource(Protocol):
    """Where weights come from: a `Checkpoint`, or anything with these two."""

    def info(self, name: str) -> Any:
        """An object whose `type` is the tensor's `ArrayType` or `QuantType`."""

    def read(self, name: str) -> Any:
        """The tensor: a float numpy array or a `QuantWeight` of numpy arrays."""

    def release(self) -> None:
        """What was read is packed by now: memory that can be had again may go."""


@dataclass(frozen=True)
class Use:
    """One reading of a weight: by which node, for which input."""

    node: Node
    input: str
    choice: Choice

    @property
    def name(self) -> str:
        return f"{self.node.op}.{self.input}"


class _Slots:
    """Numbers for values; a value has one slot on each backend it is needed on."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def of(self, name: str, place: str) -> int:
        return self.numbers.setdefault((name, place), len(self.numbers))


def bind(
    graph: Graph,
    registry: Registry,
    selection: Selection,
    source: WeightSource,
    *,
    fast: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Program:
    """Choose kernels, load and pack weights layer by layer, and lay out the calls.

    Args:
        source: gives the checkpoint's tensors by name.
        fast: allow kernels that round activations or scales; None: as the settings say.
        progress: told (weights bound, weights in all).

    Raises:
        UnsupportedError: no kernel for a node, or `kv_append` and its attention on two backends.
        CheckpointError: a weight that does not fit its node.
        InvalidInputError: a backend was named for an op that the graph does not have.
    """
    binder = _Binder(graph, registry, selection, source, fast)
    binder.choose_kernels()
    binder.load_weights(progress or (lambda done, total: None))
    return binder.lay_out()


class _Binder:
    def __init__(
        self, graph: Graph, registry: Registry, selection: Selection, source: WeightSource, fast: bool | None
    ) -> None:
        self.graph, self.registry, self.selection, self.source, self.fast = graph, registry, selection, source, fast
        self.choices: dict[str, Choice] = {}
        self.weights: dict[tuple[str, str, Any], Any] = {}
        self.report = Report()

    def choose_kernels(self) -> None:
        """A kernel for each node, from the symbolic types of its inputs."""
        self._check_selection()
        for node in self.graph.nodes:
            spec = self.registry.spec(node.op)
            backend = self.registry.backend_for(node.op, self.selection)
            types = {i: self._type(node, i, name) for i, name in node.inputs.items()}
            call = check_call(spec, types, node.attributes, backend.device)
            call = replace(call, bound="weight" not in node.inputs or node.inputs["weight"] in self.graph.weights)
            self.choices[node.name] = self.registry.choose(call, backend, fast=self.fast)
            self.report.kernels[node.name] = self.choices[node.name].id
        self._check_states()

    def _check_selection(self) -> None:
        there = {node.op for node in self.graph.nodes}
        for name, _ in self.selection.per_op:
            if name not in there and f"quantized_{name}" not in there:
                raise invalid(
                    self.selection.source,
                    name,
                    f"an op of this model ({', '.join(sorted(there))})",
                    "one it does not have",
                )

    def _type(self, node: Node, input_name: str, name: str) -> ArrayType | QuantType:
        if name in self.graph.weights and node.op.startswith("quantized_") and input_name == "weight":
            weight = self.graph.weights[name]
            stored = self.source.info(weight.tensors[0]).type
            return QuantType(weight.shape, stored.scheme, stored.bits, stored.group_size)
        return self.graph.type_of(name)

    def _check_states(self) -> None:
        """Pages are written and read in place, so all nodes that touch a state share a backend."""
        origin = {new: old for old, new in self.graph.updates.items()}
        for name in self.graph.states:
            users = [n for n in self.graph.nodes if name in {origin.get(v, v) for v in n.inputs.values()}]
            backends = {place(self.choices[n.name].backend) for n in users}
            if len(backends) > 1:
                ops = ", ".join(f"{n.op} on {place(self.choices[n.name].backend)}" for n in users)
                raise UnsupportedError(f"state {name}: kv_append and its attention must share a backend, got {ops}")

    def load_weights(self, progress: Callable[[int, int], None]) -> None:
        """Read, merge and pack weights in the order of their use; a source is dropped as soon as its last form is
        made."""
        uses: dict[str, list[Use]] = {}
        for node in self.graph.nodes:
            for input_name, name in node.inputs.items():
                if name in self.graph.weights:
                    uses.setdefault(name, []).append(Use(node, input_name, self.choices[node.name]))
        for done, (name, users) in enumerate(uses.items(), 1):
            self._load(self.graph.weights[name], users)
            self.source.release()
            progress(done, len(uses))

    def _load(self, weight: Weight, users: list[Use]) -> None:
        source = merge([self.source.read(t) for t in weight.tensors])
        if tuple(source.shape) != weight.shape:
            raise CheckpointError(
                f"weight {weight.name}: expected shape {list(weight.shape)}, got {list(source.shape)}"
            )
        forms: dict[tuple[str, Any], list[Use]] = {}
        for use in users:
            forms.setdefault((place(use.choice.backend), _prepare(use)), []).append(use)
        for (where, prepare), sharing in forms.items():
            backend = sharing[0].choice.backend
            with backend.step_context():
                native = to_native(source, backend, self.graph.dtype)
                self.weights[weight.name, where, prepare] = (
                    native if prepare is None else prepare(native, tuple(u.name for u in sharing))
                )
        if len(forms) > 1:
            self.report.second_copies.append(f"{weight.name}: " + ", ".join(u[0].choice.id for u in forms.values()))

    def lay_out(self) -> Program:
        """The flat list of calls, with copies between backends made explicit and values freed after their last use."""
        slots, constants, copied = _Slots(), {}, set()
        steps: list[Step] = []
        home: dict[str, str] = dict.fromkeys(self.graph.inputs, HOST)
        backends = {place(c.backend): c.backend for c in self.choices.values()}
        for node in self.graph.nodes:
            choice, spec = self.choices[node.name], self.registry.spec(node.op)
            here, host_inputs = place(choice.backend), {i.name for i in spec.inputs if i.host}
            sources: dict[str, int] = {}
            for input_name, name in node.inputs.items():
                if name in self.graph.weights:
                    use = Use(node, input_name, choice)
                    key = (name, here, _prepare(use))
                    slot = slots.of(f"{name} {id(key[2])}", here)
                    constants[slot] = self.weights[key]
                else:
                    if name in self.graph.states:
                        home[name] = here
                    needed = HOST if input_name in host_inputs else here
                    slot = slots.of(name, needed)
                    if home[name] != needed and slot not in copied:
                        copied.add(slot)
                        steps.append(_copy(name, home[name], needed, backends, slots))
                sources[input_name] = slot
            for output in node.outputs:
                home[output] = here
            targets = tuple(slots.of(o, here) for o in node.outputs)
            steps.append(self._step(node, spec, choice, sources, targets))
        return self._program(steps, constants, slots, home, backends)

    def _step(
        self, node: Node, spec: OpSpec, choice: Choice, sources: dict[str, int], targets: tuple[int, ...]
    ) -> Step:
        function = self.registry.function(choice)
        attributes = {k: v for k, v in node.attributes.items() if v != spec.signature.parameters[k].default}
        positional = [sources[i.name] for i in spec.positional]
        keyword = [i.name for i in spec.keyword if i.name in sources]
        several = len(node.outputs) > 1 or spec.outputs[0].shape.startswith("...")
        traceable = bool(choice.kernel and choice.kernel.traceable)
        call = partial(function, **attributes) if attributes else function
        call = _prepared_here(call, spec, node, choice, self.graph)
        if keyword:
            call = _by_name(call, len(positional), tuple(keyword))
        arguments = (*positional, *(sources[k] for k in keyword))
        return Step(node.op, node.name, call, arguments, targets, choice.backend, traceable, several)

    def _program(
        self,
        steps: list[Step],
        constants: dict[int, Any],
        slots: _Slots,
        home: dict[str, str],
        backends: dict[str, Backend],
    ) -> Program:
        graph = self.graph
        for output in graph.outputs:
            slots.of(output, home[output])
        inputs = {name: slots.of(name, HOST) for name in graph.inputs}
        states = {name: slots.of(name, home[name]) for name in graph.states}
        updates = {name: slots.of(value, home[value]) for name, value in graph.updates.items()}
        outputs = [(slots.of(name, home[name]), backends[home[name]]) for name in graph.outputs]
        allocations = {n: Allocation(s, backends[home[n]]) for n, s in graph.states.items()}
        kept = {slot for slot, _ in outputs} | set(updates.values())
        steps = compile_regions(steps, constants, kept)
        return Program(steps, constants, len(slots.numbers), inputs, states, updates, outputs, allocations, self.report)


def _prepared_here(
    call: Callable[..., Any], spec: OpSpec, node: Node, choice: Choice, graph: Graph
) -> Callable[..., Any]:
    """A kernel packs its weights; where a value of the graph stands in a weight's place, it is packed in the step
    itself."""
    prepare = choice.kernel.prepare_function() if choice.kernel else None
    names = choice.kernel.prepares if choice.kernel and prepare else ()
    places = {n for n, i in enumerate(spec.positional) if i.name in names and node.inputs[i.name] not in graph.weights}
    if not places or prepare is None:
        return call
    pack = prepare
    return lambda *args, **kwargs: call(*(pack(a, ()) if n in places else a for n, a in enumerate(args)), **kwargs)


def _by_name(function: Callable[..., Any], positional: int, names: tuple[str, ...]) -> Callable[..., Any]:
    """Give trailing arguments by keyword."""
    return lambda *args: function(*args[:positional], **dict(zip(names, args[positional:], strict=True)))


def _prepare(use: Use) -> Callable[[Any, tuple[str, ...]], Any] | None:
    kernel = use.choice.kernel
    return kernel.prepare_function() if kernel and use.input in kernel.prepares else None


def place(backend: Backend) -> str:
    """Where a backend's arrays live: two devices of one library are two places."""
    return f"{backend.name}:{backend.device}"


def _copy(name: str, home: str, needed: str, backends: Mapping[str, Backend], slots: _Slots) -> Step:
    """An explicit move of a value between host and backends."""
    function: Callable[[Any], Any]
    if home == HOST:
        backend, function = backends[needed], backends[needed].from_numpy
    elif needed == HOST:
        backend, function = backends[home], backends[home].to_numpy
    else:
        backend = backends[needed]
        function = _chain(backends[home].to_numpy, backend.from_numpy)
    return Step(
        "copy",
        f"{name} {home}->{needed}",
        function,
        (slots.of(name, home),),
        (slots.of(name, needed),),
        backend,
        False,
        False,
    )


def _chain(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: second(first(value))


def merge(parts: list[Any]) -> Any:
    """Stack along the first axis; quantized weights by their arrays."""
    if len(parts) == 1:
        return parts[0]
    quantized = [p for p in parts if isinstance(p, QuantWeight)]
    if not quantized:
        return np.concatenate(parts)
    first = quantized[0]
    if any("permutation" in p.arrays for p in quantized):
        raise UnsupportedError("merged weights: columns in an order of their own cannot be stacked")
    arrays = {name: np.concatenate([p.arrays[name] for p in quantized]) for name in first.arrays}
    return QuantWeight(
        first.scheme, arrays, first.bits, first.group_size, (sum(p.shape[0] for p in quantized), *first.shape[1:])
    )


def to_native(source: Any, backend: Backend, dtype: str) -> Any:
    """The weight as native arrays, floats in the model's dtype; a quantized weight keeps the file's numbers."""
    if isinstance(source, QuantWeight):
        return source.with_arrays({name: backend.from_numpy(array) for name, array in source.arrays.items()})
    native = backend.from_numpy(source)
    return native if str(source.dtype) == dtype else backend.astype(native, dtype)
