"""`tinyllm config`: every setting, its value, and where it came from."""

from __future__ import annotations

from pathlib import Path

from tinyllm.cli import options


def config(as_json: options.Json = False) -> None:
    """Show every setting, and where its value came from."""
    from tinyllm.cli.output import note, print_json, print_table
    from tinyllm.config import KNOWN, read_settings, user_file

    settings = read_settings()
    rows = [
        {"setting": name, "value": setting.value, "source": setting.source, "variable": KNOWN[name][0], "meaning": KNOWN[name][3]}
        for name, setting in settings.items()
    ]
    files = [Path.cwd() / "tinyllm.toml", Path.cwd() / "pyproject.toml", user_file()]
    if as_json:
        print_json({"settings": rows, "files": [{"path": str(f), "exists": f.is_file()} for f in files]})
        return
    values = ((r["setting"], "(unset)" if r["value"] in (None, "") else r["value"], r["source"], r["variable"], r["meaning"]) for r in rows)
    print_table(["setting", "value", "from", "variable", "meaning"], values)
    for file in files:
        note(f"{file}: {'there' if file.is_file() else 'not there'}")
    note("The variable goes before ./tinyllm.toml, or [tool.tinyllm] in ./pyproject.toml, and these before the user's file.")
