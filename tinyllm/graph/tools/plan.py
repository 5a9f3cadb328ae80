"""What a model needs, summed over its graph: parameters, bytes of weights, of states and of values, and what each node
of a step moves and computes. No weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from tinyllm.errors import UnsupportedError
from tinyllm.graph.graph import Graph, Node, State
from tinyllm.graph.tools.cost import Cost, Sizes, call_cost, sized, type_bytes
from tinyllm.graph.weights import weight_key
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType, Scheme
from tinyllm.spec.types import ArrayType, Call
from tinyllm.spec.validation import check_call

Typed = ArrayType | QuantType


@dataclass(frozen=True)
class TypeInfo:
    """What `bind` asks of a weight."""

    type: Typed


class StatedTypes:
    """A source of weights of which the types alone are known."""

    identity = ""

    def __init__(self, types: Mapping[str, Typed]) -> None:
        self.types = types

    def info(self, name: str) -> TypeInfo:
        """The type of a weight."""
        return TypeInfo(self.types[name])

    def read(self, name: str) -> NoReturn:
        """Raises `UnsupportedError`: there is nothing to read."""
        raise UnsupportedError(f"weight {name}: its type alone is known")

    def release(self) -> None:
        """There is nothing to let go of."""


def quantized(
    graph: Graph, specs: Mapping[str, OpSpec], types: Mapping[str, Typed], scheme: Scheme
) -> dict[str, Typed]:
    """The types of weights with every matrix as a scheme holds it, those of other schemes too. What ops do not take
    quantized, and matrices whose rows its groups do not divide, stay as they are."""
    matrices = set()
    for node in graph.nodes:
        kinds = {i.name: i.kind for i in specs[node.op].inputs}
        matrices |= {name for given, name in node.inputs.items() if kinds[given] == "weight" and name in graph.weights}

    def made(name: str, kind: Typed) -> Typed:
        shape = graph.weights[name].shape
        fits = name in matrices and shape[-1] % scheme.block == 0 and scheme.check_parameters(shape) is None
        return QuantType(shape, scheme) if fits else kind

    return {name: made(name, kind) for name, kind in types.items()}


@dataclass(frozen=True)
class Parameters:
    """Numbers of all weights, each counted once, and of those that a token goes through: of a mixture the experts that
    one names."""

    total: int
    active: int


def parameters(graph: Graph) -> Parameters:
    """Of an unmerged graph. What balances the load of a mixture's experts is learnt in another way, and is none; nor is
    a weight that no checkpoint has."""
    balances = {node.inputs["bias"] for node in graph.nodes if node.op == "moe_router" and "bias" in node.inputs}
    held = {name: weight for name, weight in graph.weights.items() if weight.value is None}
    sizes = {name: prod(weight.shape) for name, weight in held.items() if name not in balances}
    used = dict(sizes)
    for node in graph.nodes:
        if node.op == "moe_experts":
            named = graph.type_of(node.inputs["experts"]).shape[-1]
            for name in (name for name in node.inputs.values() if name in sizes):
                used[name] = sizes[name] * int(named) // graph.weights[name].shape[0]
    return Parameters(sum(sizes.values()), sum(used.values()))


@dataclass(frozen=True)
class Held:
    """Weights of one dtype or scheme: how many numbers they are, and their bytes in memory."""

    numbers: int = 0
    bytes: int = 0


def held_weights(graph: Graph, bound: Mapping[str, BoundKernel]) -> dict[str, Held]:
    """By dtype or scheme the weights of a graph, in every form that its kernels read; the most bytes first.

    graph, bound: as `bind.choose` gives them.
    """
    forms: dict[Any, Typed] = {}
    for node in graph.nodes:
        for given, name in node.inputs.items():
            if name in graph.weights and (kind := bound[node.name].call.inputs[given]) is not None:
                forms[weight_key(name, bound[node.name], given)] = kind
    found: dict[str, Held] = {}
    for kind in forms.values():
        name = str(kind.scheme) if isinstance(kind, QuantType) else kind.dtype
        before = found.get(name, Held())
        found[name] = Held(before.numbers + _numbers(kind), before.bytes + type_bytes(kind))
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))


def state_bytes(states: Iterable[State]) -> tuple[int, int]:
    """Bytes of states for each token, and for each sequence however long it is."""
    by_token = by_sequence = 0
    for state in states:
        size = prod(int(d) for d in state.page_shape if d != "page") * numpy_dtype(state.dtype).itemsize
        by_token += 0 if state.by_sequence else size
        by_sequence += size if state.by_sequence else 0
    return by_token, by_sequence


@dataclass(frozen=True)
class NodeCost:
    """What a node of a step computes and moves. scheme: of its weights; None: floats, or none. rows: how many are
    multiplied with each of its weights; 0: it is no product. backend: `name:device`; empty: the plan's."""

    name: str
    op: str
    kernel: str
    flops: int
    bytes: int
    scheme: Scheme | None = None
    rows: int = 0
    backend: str = ""


def node_costs(graph: Graph, bound: Mapping[str, BoundKernel], sizes: Sizes) -> list[NodeCost]:
    """Of each node, by the formulas of its op's spec, the weights in the form that its kernel reads.

    graph, bound: as `bind.choose` gives them. sizes: as `cost.step_sizes` gives them.
    """
    known: dict[Any, tuple[Cost, int]] = {}
    costs = []
    for node in graph.nodes:
        kernel = bound[node.name]
        types = {name: sized(kind, sizes) for name, kind in kernel.call.inputs.items() if kind is not None}
        key = node.op, tuple(types.items()), tuple(node.attributes.items())
        if key not in known:  # layers are alike
            call = check_call(kernel.spec, types, node.attributes)
            known[key] = call_cost(kernel.spec, call), _rows(call)
        cost, rows = known[key]
        where = f"{kernel.backend.name}:{kernel.backend.device}"
        costs.append(
            NodeCost(node.name, node.op, kernel.choice.id, cost.flops, cost.bytes, _scheme(types), rows, where)
        )
    return costs


def _numbers(kind: Typed) -> int:
    return prod(int(size) for size in kind.shape)


def value_bytes(graph: Graph, specs: Mapping[str, OpSpec], sizes: Sizes) -> int:
    """The most bytes of values that are alive at once in a step, views counted once; what kernels take besides is not
    known here."""
    homes = {name: name for name in graph.inputs}
    for node in graph.nodes:
        for output, name in zip(_outputs(specs[node.op], node), node.outputs, strict=True):
            source = next(iter(node.inputs.values()))
            homes[name] = homes.get(source, source) if output else name
    last = {homes.get(name, name): number for number, node in enumerate(graph.nodes) for name in node.inputs.values()}
    last |= {homes[name]: len(graph.nodes) for name in graph.outputs}
    states = {*graph.states, *graph.updates.values()}
    alive = most = 0
    ends: dict[int, int] = {}
    for number, node in enumerate(graph.nodes):
        for name in node.outputs:
            if homes[name] == name and name not in states:
                size = type_bytes(sized(graph.types[name], sizes))
                alive += size
                end = last.get(name, number)
                ends[end] = ends.get(end, 0) + size
        most = max(most, alive)
        alive -= ends.get(number, 0)
    return most


def _outputs(spec: OpSpec, node: Node) -> list[bool]:
    """Per output of a node whether it is a view of its first input."""
    if spec.gives_many:
        return [spec.outputs[0].may_view] * len(node.outputs)
    return [output.may_view for output in spec.outputs[: len(node.outputs)]]


def _rows(call: Call) -> int:
    if call.op == "linear":
        return int(prod(call.shape("x")[:-1]))
    if call.op == "moe_experts":
        named = int(prod(call.shape("experts")))
        return -(-named // max(1, min(named, int(call.shape("gate_proj")[0]))))
    return 0


def _scheme(types: Mapping[str, Typed]) -> Scheme | None:
    return next((kind.scheme for kind in types.values() if isinstance(kind, QuantType)), None)
