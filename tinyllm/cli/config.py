"""`tinyllm config`: every setting, its value, and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyllm.cli import options


def config(as_json: options.Json = False) -> None:
    """Show every setting, and where its value came from."""
    from tinyllm.cli.output import note, print_json, print_table
    from tinyllm.settings.known import known_settings
    from tinyllm.settings.read import read_settings, user_file

    settings = read_settings()
    rows = [
        {
            "setting": name,
            "value": spec.public(settings[name].value),
            "source": settings[name].source,
            "variable": spec.variable,
            "meaning": spec.meaning,
        }
        for name, spec in known_settings().items()
    ]
    files = [Path.cwd() / "tinyllm.toml", Path.cwd() / "pyproject.toml", user_file()]
    if as_json:
        print_json({"settings": rows, "files": [{"path": str(f), "exists": f.is_file()} for f in files]})
        return
    cells = ((row["setting"], _cell(row["value"]), row["source"], row["variable"], row["meaning"]) for row in rows)
    print_table(["setting", "value", "from", "variable", "meaning"], cells)
    for file in files:
        note(f"{file}: {'there' if file.is_file() else 'not there'}")
    note(
        "The variable goes before ./tinyllm.toml, or [tool.tinyllm] in ./pyproject.toml, and these before the "
        "user's file."
    )
    note("A name with a dot is one of a table: serve.port is port under [serve], or [tool.tinyllm.serve].")


def _cell(value: Any) -> Any:
    if value in (None, "", []):
        return "(unset)"
    return ", ".join(value) if isinstance(value, list) else value
