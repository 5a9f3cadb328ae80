"""Shares a graph out among several processes: each has some heads, and some of the inner numbers of feed-forward
layers and experts, and what they add up to is summed over all of them.

Source: Shoeybi et al. 2019, arXiv:1909.08053. No name of a weight has a meaning here: a split of heads or inner numbers
goes from node to node, by what ops do with an axis, until it ends in the rows and columns of weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.graph.graph import Graph, Node, State, Weight
from tinyllm.spec.communicator import Communicator
from tinyllm.spec.types import ArrayType

Ties = tuple[Mapping[str, int], ...]
"""Of an op: sets of axes that are split together, by input, outputs being `->0`, `->1` or all of them `->`."""

ELEMENTS: Ties = ({"x": -1, "->0": -1}, {"x": -2, "->0": -2})
TWO: Ties = ({"x": -1, "y": -1, "->0": -1}, {"x": -2, "y": -2, "->0": -2})
GATED: Ties = ({"gate": -1, "up": -1, "->0": -1},)
OF_HEADS: Ties = ({"x": -2, "->0": -2},)
TIES: dict[str, Ties] = {
    "linear": ({"weight": -2, "bias": -1, "->0": -1}, {"x": -1, "weight": -1}),
    "moe_experts": ({"gate_proj": -2, "up_proj": -2, "down_proj": -1, "gate_bias": -1, "up_bias": -1},),
    "paged_attention": ({"q": -2, "k_pages": -3, "v_pages": -3, "sinks": -1, "->0": -2},),
    "kv_append": ({"k_pages": -3, "v_pages": -3, "k": -2, "v": -2, "->0": -3, "->1": -3},),
    "split_heads": ({"x": -1, "->": -2},),
    "merge_heads": ({"x": -2, "->0": -1},),
    "embedding": ({"weight": -1, "->0": -1},),
    **dict.fromkeys(("rope_rotate", "rms_norm", "layer_norm"), OF_HEADS),
    **dict.fromkeys(("silu", "gelu", "sigmoid", "scale"), ELEMENTS),
    **dict.fromkeys(("add", "mul"), TWO),
    **dict.fromkeys(("swiglu", "geglu"), GATED),
}
PARTIAL = {"linear": ("x", "bias"), "moe_experts": ("down_proj", "down_bias")}
"""Ops whose output is a part of a sum where an input is split along its last axis, and what one process alone adds."""
ACTIVATIONS = ("swiglu", "geglu", "silu", "gelu")


@dataclass(frozen=True)
class Cut:
    """What a process has of a weight: numbers `start` to `stop - 1` along an axis, counted from the end."""

    axis: int
    start: int
    stop: int

    @property
    def columns(self) -> slice:
        """The same as a slice."""
        return slice(self.start, self.stop)


def tensor_parallel(graph: Graph, group: Communicator) -> tuple[Graph, dict[str, Cut]]:
    """The part of a graph that one process runs, and what it has of the weights; those that are not named it has whole.

    The first process gives the graph's outputs, the others none. Nodes that no split reaches run on each of them whole:
    embeddings, norms, routers, the head, and recurrent layers.

    Raises:
        InvalidInputError: heads or inner sizes that the number of processes does not divide.
        UnsupportedError: an op that needs all of an axis that is split.
    """
    _check_heads(graph, group.ranks)
    axes = _split_axes(graph)
    for name, axis in axes.items():
        _check_size(name, graph.type_of(name), axis, group.ranks)
    cuts = {name: _cut(graph.weights[name], axis, group) for name, axis in axes.items() if name in graph.weights}
    nodes: list[Node] = []
    types = {name: _local(kind, axes.get(name), group.ranks) for name, kind in graph.types.items()}
    for node in graph.nodes:
        split, alone = PARTIAL.get(node.op, ("", ""))
        name = node.inputs.get(split, "")
        node = replace(node, attributes=_attributes(node, axes, group.ranks))
        if axes.get(name) != -1:
            nodes.append(node)
            continue
        inputs = {i: n for i, n in node.inputs.items() if i != alone or group.rank == 0}
        (whole,), part = node.outputs, f"{node.outputs[0]}.part"
        types[part] = types[whole]
        reduce = Node(f"{node.name}.all_reduce", "all_reduce", {"x": part}, (whole,), {"group": group})
        nodes += [replace(node, inputs=inputs, outputs=(part,)), reduce]
    outputs = graph.outputs if group.rank == 0 else ()
    nodes = _needed(nodes, {*outputs, *graph.updates.values()})
    read = {name for node in nodes for name in node.inputs.values()}
    weights = {
        name: replace(weight, shape=_shape(weight.shape, axes.get(name), group.ranks))
        for name, weight in graph.weights.items()
        if name in read
    }
    states = {
        name: State(name, _shape(state.page_shape, axes.get(name), group.ranks), state.dtype)
        for name, state in graph.states.items()
    }
    shared = replace(graph, nodes=tuple(nodes), weights=weights, states=states, types=types, outputs=outputs)
    return shared, {name: cut for name, cut in cuts.items() if name in weights}


def _check_heads(graph: Graph, ranks: int) -> None:
    for node in graph.nodes:
        if node.op == "paged_attention":
            heads, kv_heads = (graph.type_of(node.inputs[name]).shape[n] for name, n in (("q", 1), ("k_pages", 1)))
            fitting = [n for n in range(1, int(kv_heads) + 1) if int(heads) % n == 0 and int(kv_heads) % n == 0]
            if ranks not in fitting:
                raise InvalidInputError(
                    f"tensor_parallel: expected a number that divides the {heads} heads and the {kv_heads} heads of "
                    f"keys and values of {node.name}: {', '.join(map(str, fitting))}, got {ranks}"
                )


def _check_size(name: str, kind: ArrayType, axis: int, ranks: int) -> None:
    size = kind.shape[axis]
    if not isinstance(size, int) or size % ranks:
        raise InvalidInputError(f"tensor_parallel: {name}: expected a size that {ranks} divides, got {size} in {kind}")


def _split_axes(graph: Graph) -> dict[str, int]:
    """Per value, weight and state that is split the axis, counted from the end."""
    readers = graph.consumers()
    makers = {output: node for node in graph.nodes for output in node.outputs}
    axes: dict[str, int] = {}
    waiting: deque[tuple[str, int]] = deque(_seeds(graph, makers, readers))
    while waiting:
        name, axis = waiting.popleft()
        if name in axes:
            if axes[name] != axis:
                raise UnsupportedError(f"tensor_parallel: {name}: is wanted split along two of its axes")
            continue
        axes[name] = axis
        touched = [makers[name]] if name in makers else []
        for node in (*touched, *readers.get(name, ())):
            waiting += _tied(node, name, axis)
    return axes


def _seeds(graph: Graph, makers: Mapping[str, Node], readers: Mapping[str, list[Node]]) -> list[tuple[str, int]]:
    """Where a split begins: heads of attention, inner numbers between two products, and those of experts."""
    found: list[tuple[str, int]] = []
    for node in graph.nodes:
        if node.op == "paged_attention":
            found.append((node.outputs[0], -2))
        elif node.op == "moe_experts":
            found.append((node.inputs["gate_proj"], -2))
        elif node.op in ACTIVATIONS:
            made = [makers[name].op if name in makers else "" for name in node.inputs.values()]
            read = [reader.op for reader in readers.get(node.outputs[0], ())]
            if {*made} == {"linear"} and read == ["linear"]:
                found.append((node.outputs[0], -1))
    return found


def _ports(node: Node) -> list[tuple[str, str]]:
    """(input or output, the name of what stands there)."""
    return [*node.inputs.items(), *((f"->{place}", name) for place, name in enumerate(node.outputs))]


def _tied(node: Node, name: str, axis: int) -> list[tuple[str, int]]:
    """What else a node wants split when one of its arrays is."""
    for ties in TIES.get(node.op, ()):
        if "->" in ties:
            ties = {"x": ties["x"], **{f"->{place}": ties["->"] for place in range(len(node.outputs))}}
        if any(there == name and ties.get(port) == axis for port, there in _ports(node)):
            return [(there, ties[port]) for port, there in _ports(node) if port in ties]
    raise UnsupportedError(
        f"tensor_parallel: {node.name}: {node.op} needs all of {name}, which would be split among the processes"
    )


def _attributes(node: Node, axes: Mapping[str, int], ranks: int) -> Mapping[str, Any]:
    if node.op != "split_heads" or node.inputs["x"] not in axes:
        return node.attributes
    return {**node.attributes, "heads": tuple(heads // ranks for heads in node.attributes["heads"])}


def _cut(weight: Weight, axis: int, group: Communicator) -> Cut:
    size = weight.shape[axis] // group.ranks
    return Cut(axis, group.rank * size, (group.rank + 1) * size)


def _shape(shape: tuple[Any, ...], axis: int | None, ranks: int) -> tuple[Any, ...]:
    """A shape with one axis shared out."""
    if axis is None:
        return shape
    place = len(shape) + axis
    return (*shape[:place], shape[place] // ranks, *shape[place + 1 :])


def _local(kind: ArrayType, axis: int | None, ranks: int) -> ArrayType:
    return replace(kind, shape=_shape(kind.shape, axis, ranks))


def _needed(nodes: list[Node], wanted: set[str]) -> list[Node]:
    """The nodes that make what is wanted, and those that other processes wait for."""
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.op == "all_reduce" or wanted & {*node.outputs}:
            kept.append(node)
            wanted |= {*node.inputs.values()}
    return kept[::-1]
