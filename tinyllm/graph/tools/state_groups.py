"""Which nodes of a graph have to run on one backend: those that read or write one state."""

from __future__ import annotations

from tinyllm.graph.graph import Graph


def state_groups(graph: Graph) -> list[tuple[str, ...]]:
    """Names of nodes that move together, in the order of their first nodes; most are alone."""
    origin = {new: old for old, new in graph.updates.items()}
    group: dict[str, list[str]] = {}
    first_user: dict[str, str] = {}
    for node in graph.nodes:
        group[node.name] = [node.name]
        for name in dict.fromkeys(origin.get(value, value) for value in node.inputs.values()):
            if name not in graph.states:
                continue
            there = group[first_user.setdefault(name, node.name)]
            if there is not group[node.name]:
                there += group[node.name]
                group.update(dict.fromkeys(group[node.name], there))
    return [tuple(members) for members in {id(members): members for members in group.values()}.values()]
