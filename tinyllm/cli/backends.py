"""`tinyllm backends`: which backends can run here, and which one is selected."""

from __future__ import annotations

from typing import Any

from tinyllm.cli import options


def backends(as_json: options.Json = False) -> None:
    """List the backends: whether they can run here, and which one is selected."""
    from tinyllm.cli.output import note, print_json, print_table
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    selection = registry.select()
    default = selection.default or registry.best()
    rows: list[dict[str, Any]] = []
    for name, plugin in sorted(registry.plugins.backends.items(), key=lambda item: -registry.probe(item[0]).score):
        probe = registry.probe(name)
        rows.append(
            {
                "name": name,
                "available": probe.available,
                "about": probe.reason,
                "devices": list(probe.devices),
                "score": probe.score,
                "install": plugin.install,
                "selected": name == default.partition(":")[0],
            }
        )
    broken = {name: f"{type(error).__name__}: {error}" for name, error in registry.plugins.broken.items()}
    if as_json:
        print_json(
            {
                "backends": rows,
                "broken": broken,
                "selected": default,
                "per_op": dict(selection.per_op),
                "per_node": dict(selection.per_node),
                "source": selection.source,
            }
        )
        return
    table = [
        (
            f"{r['name']}{' *' if r['selected'] else ''}",
            r["available"],
            ", ".join(r["devices"]) if r["available"] else "",
            r["score"],
            r["about"] + (f"; {r['install']}" if r["install"] and not r["available"] else ""),
        )
        for r in rows
    ]
    table += [(name, "broken", "", "", error) for name, error in broken.items()]
    print_table(["name", "available", "devices", "score", "about"], table)
    others = "".join(f"; {what} on {name}" for what, name in (*selection.per_op, *selection.per_node))
    note(f"* {default} is selected: {selection.source}{others}")
