"""What there is to say of each node of a folded graph, for all the blocks that it stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from tinyllm.graph.graph import Graph, Node
from tinyllm.graph.tools.fold import Folded, Part
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.types import ArrayType, Dim

Kind = Literal["product", "memory", "moves", "computes"]
"""Whether a node multiplies by weights, touches a state, only moves numbers, or does anything else."""


@dataclass(frozen=True)
class Facts:
    """What is known beside the graph, by name.

    kernels: of nodes, their ids. stored: of weights, the dtype or scheme that the file has. seconds: of nodes, at the
    step that was traced, which the file calls `step`; of copies between backends, too, which are part of it.
    """

    kernels: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    step: str = ""


@dataclass(frozen=True)
class Mark:
    """A weight, a state or an input of the graph that a node reads.

    input: what its op calls it. text: its shape, and of a weight how it is stored. stored: with the number of blocks in
    which it is stored so.
    """

    kind: Literal["weight", "state", "input"]
    input: str
    name: str
    text: str
    stored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A node as it is shown.

    name: within its block. outputs: per value its type. kernels: with the number of blocks that each runs in.
    seconds: of all blocks together, and share: of the whole step; None where nothing was traced.
    """

    node: Node
    name: str
    kind: Kind
    attributes: tuple[str, ...]
    marks: tuple[Mark, ...]
    outputs: Mapping[str, str]
    kernels: Mapping[str, int]
    seconds: float | None = None
    share: float | None = None


def cards(folded: Folded, specs: Mapping[str, OpSpec], facts: Facts) -> dict[str, Card]:
    """A card for each node that is shown, by its name."""
    graph = folded.graph
    total = sum(facts.seconds.values())
    kept = {*graph.states, *graph.updates.values()}
    found: dict[str, Card] = {}
    for part in folded.parts:
        for node in part.nodes:
            nodes = part.each(node.name)
            seconds = sum(facts.seconds[name] for name in nodes) if facts.seconds else None
            found[node.name] = Card(
                node,
                short_name(node.name, part),
                _kind(node, specs[node.op], graph, kept),
                tuple(_attributes(node, specs[node.op])),
                tuple(_marks(node, part, graph, facts)),
                {value: type_text(graph, graph.types[value]) for value in node.outputs},
                Counter(facts.kernels[name] for name in nodes) if facts.kernels else {},
                seconds,
                seconds / total if seconds is not None and total else None,
            )
    return found


def type_text(graph: Graph, kind: ArrayType) -> str:
    """A shape, and a dtype that is not the graph's: `[T, 576]`, `[T, 4] int32`."""
    return shape_text(kind.shape) + (f" {kind.dtype}" if kind.dtype != graph.dtype else "")


def shape_text(shape: Iterable[Dim]) -> str:
    """`[T, 576]`."""
    return f"[{', '.join(map(str, shape))}]"


def short_name(name: str, part: Part) -> str:
    """A node's name within its block. What calls that were merged have in common is said once:
    `self_attn.(q_proj+k_proj).linear`."""
    scope = f"{part.scope}.{part.numbers[0]}.".removeprefix(".") if part.numbers else ""
    names = [one.removeprefix(scope).split(".") for one in name.split("+")]
    if len(names) == 1:
        return ".".join(names[0])
    after = names[-1][len(names[0]) :]  # what cuts the result of a merged call has a name of the call's and one word
    names[-1] = names[-1][: len(names[0])]
    head = _common(names)
    tail = _common([one[head:][::-1] for one in names])
    middles = [".".join(one[head : len(one) - tail]) for one in names]
    return ".".join([*names[0][:head], f"({'+'.join(middles)})", *names[0][len(names[0]) - tail :], *after])


def _common(names: list[list[str]]) -> int:
    """How many of their first words all names have in common; each keeps one of its own."""
    for number, words in enumerate(zip(*(name[:-1] for name in names), strict=False)):
        if len(set(words)) > 1:
            return number
    return min(len(name) for name in names) - 1


def _kind(node: Node, spec: OpSpec, graph: Graph, kept: set[str]) -> Kind:
    if kept & {*node.inputs.values()}:
        return "memory"
    weights = [i.name for i in spec.inputs if i.kind == "weight"]
    if any(node.inputs.get(name) in graph.weights for name in weights):
        return "product"
    return "moves" if spec.tolerance == 0 else "computes"


def _attributes(node: Node, spec: OpSpec) -> Iterable[str]:
    """Those that are not as they would be unsaid."""
    for name, value in node.attributes.items():
        if value != spec.signature.parameters[name].default and (text := _value_text(value)) != "()":
            yield f"{name}={text}"


def _value_text(value: Any) -> str:
    """An attribute as text; of settings, those that are not the default."""
    if is_dataclass(value) and not isinstance(value, type):
        told = [f"{f.name}={_value_text(getattr(value, f.name))}" for f in fields(value) if _differs(value, f)]
        return f"({', '.join(told)})"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_value_text, value))})" if len(value) != 1 else _value_text(value[0])
    return str(value)


def _differs(value: Any, of: Any) -> bool:
    return bool(getattr(value, of.name) != of.default)


def _marks(node: Node, part: Part, graph: Graph, facts: Facts) -> Iterable[Mark]:
    for name, source in node.inputs.items():
        if source in graph.weights:
            stored = Counter(facts.stored[weight] for weight in part.each(source)) if facts.stored else {}
            text = " ".join([shape_text(graph.weights[source].shape), counted(stored)]).strip()
            yield Mark("weight", name, source, text, stored)
        elif source in graph.states:
            yield Mark("state", name, source, type_text(graph, graph.type_of(source)))
        elif source in graph.inputs and part.numbers:
            yield Mark("input", name, source, shape_text(graph.inputs[source].shape))


def counted(found: Mapping[str, int]) -> str:
    """`q4_1`, or where there are several `q4_k x20, q6_k x10`."""
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{name} ×{count}" for name, count in found.items())
