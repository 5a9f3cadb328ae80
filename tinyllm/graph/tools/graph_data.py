"""A folded graph as plain data, for JSON and for tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.graph.tools.cards import Card, counted
from tinyllm.graph.tools.fold import Folded
from tinyllm.graph.tools.picture import title_of
from tinyllm.spec.types import ArrayType

COLUMNS = ("part", "node", "op", "reads", "gives", "kernel", "with", "attributes", "share", "ms")
"""What a row says; beside its `id`, the node's name in the whole graph."""


def as_data(folded: Folded, cards: Mapping[str, Card]) -> dict[str, Any]:
    """Inputs, outputs, parts, nodes and edges. Nodes and values have their names in the first of equal blocks;
    `repeats` is how often a node is there, and `seconds` are of all of them together."""
    graph = folded.graph
    nodes, edges = [], []
    makers = {value: node.name for node in graph.nodes for value in node.outputs}
    for number, part in enumerate(folded.parts):
        for node in part.nodes:
            nodes.append({"part": number, "repeats": len(part.names), **_node(folded, cards[node.name])})
            for name, value in node.inputs.items():
                edges.append(
                    {
                        "from": makers.get(value),
                        "to": node.name,
                        "input": name,
                        "value": value,
                        "kind": _kind(folded, value),
                        **_type(graph.type_of(value)),
                    }
                )
    return {
        "dtype": graph.dtype,
        "inputs": {name: _type(kind) for name, kind in graph.inputs.items()},
        "outputs": {name: _type(graph.types[name]) for name in graph.outputs},
        "parts": [
            {"scope": part.scope or None, "blocks": list(part.numbers), "title": title_of(part) if part.numbers else ""}
            for part in folded.parts
        ],
        "nodes": nodes,
        "edges": edges,
    }


def rows(folded: Folded, cards: Mapping[str, Card]) -> list[dict[str, Any]]:
    """A row for each node that is shown, as texts. reads: nodes by their names in the block, those outside by their
    whole names, and `in` for what comes from the block before."""
    makers = {value: node.name for node in folded.graph.nodes for value in node.outputs}
    found = []
    for part in folded.parts:
        names = {value: cards[node.name].name for node in part.nodes for value in node.outputs}
        for node in part.nodes:
            card = cards[node.name]
            read = dict.fromkeys(value for value in node.inputs.values() if value in makers)
            far = {v: "in" if part.numbers and not folded.is_named(part, v) else makers[v] for v in read}
            sources = [names.get(value, far[value]) for value in read]
            found.append(
                {
                    "id": node.name,
                    "part": title_of(part) if part.numbers else "",
                    "node": card.name,
                    "op": node.op,
                    "attributes": ", ".join(card.attributes),
                    "reads": ", ".join(dict.fromkeys(sources)),
                    "gives": ", ".join(card.outputs.values()),
                    "kernel": counted(card.kernels),
                    "with": "; ".join(f"{mark.input} {mark.text}" for mark in card.marks),
                    "share": "" if card.share is None else f"{card.share:.1%}",
                    "ms": "" if card.seconds is None else f"{card.seconds * 1e3:.3f}",
                }
            )
    return found


def _node(folded: Folded, card: Card) -> dict[str, Any]:
    graph, node = folded.graph, card.node
    weights = {
        mark.input: {"name": mark.name, **_type(graph.type_of(mark.name)), "stored": dict(mark.stored)}
        for mark in card.marks
        if mark.kind == "weight"
    }
    return {
        "name": node.name,
        "op": node.op,
        "attributes": list(card.attributes),
        "outputs": {value: _type(graph.types[value]) for value in node.outputs},
        "kernels": dict(card.kernels),
        "weights": weights,
        "states": {mark.input: mark.name for mark in card.marks if mark.kind == "state"},
        "seconds": card.seconds,
        "share": card.share,
    }


def _kind(folded: Folded, value: str) -> str:
    graph = folded.graph
    places = {"weight": graph.weights, "state": graph.states, "input": graph.inputs}
    return next((kind for kind, names in places.items() if value in names), "value")


def _type(kind: ArrayType) -> dict[str, Any]:
    return {"shape": list(kind.shape), "dtype": kind.dtype}
