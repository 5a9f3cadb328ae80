"""`tinyllm which NODES`: what runs the nodes of a model that a pattern names, and the copies they read."""

from __future__ import annotations

from tinyllm.cli.output import note, print_json, print_table
from tinyllm.cli.session import load_model
from tinyllm.errors import invalid


def which_nodes(
    pattern: str, model: str | None, backend: str | None, dtype: str | None, fast: bool | None, as_json: bool
) -> None:
    """Load a model, and show the backend and the kernel of each node that the pattern names.

    Raises:
        InvalidInputError: it names none.
    """
    from tinyllm.registry.selection import fits, nearest

    llm = load_model(model, backend, dtype, fast, None, quiet=as_json)
    nodes = llm.program.nodes
    named = [node for node in nodes if node.call is not None and fits(pattern, node.name)]
    if not named:
        close = ", ".join(nearest(pattern, [node.name for node in nodes if node.call is not None]))
        raise invalid("which", pattern, f"nodes of this model (the nearest are {close})", "a pattern that fits none")
    read = {number for node in named for number in node.sources}
    shown = [node for node in nodes if node in named or (node.op == "copy" and node.targets[0] in read)]
    rows = [
        {
            "node": node.name,
            "op": node.op,
            "kernel": node.kernel,
            "backend": f"{node.backend.name}:{node.backend.device}",
        }
        for node in shown
    ]
    copies = sum(node.op == "copy" for node in nodes)
    source = llm.registry.select(backend).source
    if as_json:
        print_json({"source": source, "copies": copies, "nodes": rows})
        return
    print_table(["node", "op", "kernel", "backend"], [tuple(row.values()) for row in rows])
    of_all = sum(node.call is not None for node in nodes)
    note(f"{len(named)} of {of_all} nodes ({source}); {copies} copies between backends in the whole program")
