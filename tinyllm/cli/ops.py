"""`tinyllm ops`: the ops of the catalogue and of plugins, and their kernels."""

from __future__ import annotations

from tinyllm.cli import options


def ops(as_json: options.Json = False) -> None:
    """List the ops, and which backends have kernels for them.

    On a backend that has no kernel for an op, the op runs by its reference.
    """
    from tinyllm.cli.output import print_json, print_table
    from tinyllm.registry.registry import default_registry

    registry = default_registry()
    names = sorted(registry.plugins.backends)
    rows = [
        {
            "name": op,
            "summary": spec.summary,
            "kernels": {name: [k.name for k in registry.kernels(name, op)] for name in names},
        }
        for op, spec in sorted(registry.specs.items())
    ]
    if as_json:
        print_json({"ops": rows})
        return
    table = []
    for row, spec in zip(rows, (registry.specs[str(r["name"])] for r in rows), strict=True):
        otherwise = "composed" if spec.composed else "reference"
        kernels = (", ".join(k.name for k in registry.kernels(name, spec.name)) or otherwise for name in names)
        table.append((row["name"], row["summary"], *kernels))
    print_table(["op", "what it does", *names], table)
