"""Merges projections that read the same input into one product, and the rotations of queries and keys into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tinyllm.graph.graph import Graph, Node, Weight
from tinyllm.graph.weights import WeightSource
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType

GATED = ("swiglu", "geglu")
"""Activations of a gate and an up projection."""


def merge_calls(graph: Graph, source: WeightSource) -> Graph:
    """A graph that computes the same with fewer calls."""

    def form(name: str) -> str:
        info = source.info(graph.weights[name].tensors[0])
        kind = info.type
        return str(kind.scheme if isinstance(kind, QuantType) else kind.dtype) + getattr(info, "order", "")

    return merge_rotations(merge_projections(graph, form))


def merge_projections(graph: Graph, form: Callable[[str], str]) -> Graph:
    """One matrix product for q, k and v, and one for gate and up: projections of one input, stacked along their rows.

    form: how a weight is stored (`float32`, `affine4/32`); only weights of one form are stacked.
    """
    readers = graph.consumers()
    groups: dict[tuple[str, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.op != "linear":
            continue
        users = readers.get(node.outputs[0], [])
        if len(users) == 1 and users[0].op in ("split_heads", *GATED) and node.outputs[0] not in graph.outputs:
            target = users[0].name if users[0].op in GATED else users[0].op
            key = (node.inputs["x"], target, form(node.inputs["weight"]), str("bias" in node.inputs))
            groups.setdefault(key, []).append(node)
    for members in groups.values():
        if len(members) > 1:
            users = [readers[m.outputs[0]][0] for m in members]
            graph = _merge(graph, members, users)
    return graph


def _merge(graph: Graph, members: list[Node], users: list[Node]) -> Graph:
    heads = users[0].op == "split_heads"
    if heads and len({graph.types[u.outputs[0]].shape[-1] for u in users}) != 1:
        return graph  # head sizes differ: one split cannot cut them
    weights, stack = dict(graph.weights), {}
    for name in ("weight", "bias"):
        if name in members[0].inputs:
            parts = [graph.weights[m.inputs[name]] for m in members]
            merged = Weight(
                "+".join(p.name for p in parts),
                (sum(p.shape[0] for p in parts), *parts[0].shape[1:]),
                parts[0].dtype,
                tuple(t for p in parts for t in p.tensors),
            )
            weights[merged.name] = merged
            stack[name] = merged.name
    rows = tuple(graph.types[m.outputs[0]].shape[-1] for m in members)
    product = "+".join(m.outputs[0] for m in members)
    lead = graph.types[members[0].outputs[0]].shape[:-1]
    types = {**graph.types, product: ArrayType((*lead, sum(int(r) for r in rows)), graph.dtype)}
    linear = replace(members[0], name=product, inputs={**members[0].inputs, **stack}, outputs=(product,))
    if heads:
        split = Node(
            product + ".split_heads",
            "split_heads",
            {"x": product},
            tuple(u.outputs[0] for u in users),
            {"heads": tuple(h for u in users for h in u.attributes["heads"])},
        )
        dropped = {n.name for n in (*members, *users)}
    else:
        split = Node(product + ".split", "split", {"x": product}, tuple(m.outputs[0] for m in members), {"sizes": rows})
        dropped = {n.name for n in members}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node is members[0]:
            nodes += [linear, split]
        elif node.name not in dropped:
            nodes.append(node)
    read = {name for node in nodes for name in node.inputs.values()}
    used = {name: weight for name, weight in weights.items() if name in read}
    return replace(graph, nodes=tuple(nodes), weights=used, types=types)


def merge_rotations(graph: Graph) -> Graph:
    """Turn the queries and keys of a layer in one `rope_rotate`: they come side by side from one `split_heads`."""
    readers = graph.consumers()
    for node in graph.nodes:
        if node.op != "split_heads" or len(node.outputs) < 3:
            continue
        q, k, *rest = node.outputs
        users = [readers.get(name, []) for name in (q, k)]
        turned = [u[0] for u in users if len(u) == 1 and u[0].op == "rope_rotate"]
        if len(turned) == 2 and _same_turn(*turned):
            graph = _turn_together(graph, node, turned, rest)
    return graph


def _same_turn(q: Node, k: Node) -> bool:
    return q.attributes == k.attributes and all(q.inputs[n] == k.inputs[n] for n in ("cos", "sin"))


def _turn_together(graph: Graph, node: Node, turned: list[Node], rest: list[str]) -> Graph:
    heads = node.attributes["heads"]
    q, k = turned
    both, result = f"{node.outputs[0]}+{node.outputs[1]}", f"{q.outputs[0]}+{k.outputs[0]}"
    kind = graph.types[node.outputs[0]]
    joined = ArrayType((*kind.shape[:-2], heads[0] + heads[1], kind.shape[-1]), kind.dtype)
    split = replace(node, outputs=(both, *rest), attributes={"heads": (heads[0] + heads[1], *heads[2:])})
    rotate = replace(q, name=result, inputs={**q.inputs, "x": both}, outputs=(result,))
    apart = Node(
        result + ".split", "split", {"x": result}, (q.outputs[0], k.outputs[0]), {"sizes": heads[:2], "axis": -2}
    )
    replaced = {node.name: (split,), q.name: (rotate, apart), k.name: ()}
    nodes = tuple(new for old in graph.nodes for new in replaced.get(old.name, (old,)))
    return replace(graph, nodes=nodes, types={**graph.types, both: joined, result: joined})
