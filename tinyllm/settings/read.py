"""The value of every setting, and where it came from: the environment, files, or the default. Files are never
written."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyllm.errors import ConfigError, suggest
from tinyllm.settings.known import known_settings

DEFAULT = "default"


@dataclass(frozen=True)
class Setting:
    """The value of a setting, and where it came from: `TINYLLM_BACKEND`, `tinyllm.toml`, `default`."""

    value: Any
    source: str


def user_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's own configuration file (it need not exist)."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "tinyllm" / "tinyllm.toml"
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tinyllm" / "tinyllm.toml"


def default_settings() -> dict[str, Setting]:
    """Every setting as it is where nobody sets it."""
    return {name: Setting(spec.default, DEFAULT) for name, spec in known_settings().items()}


def read_settings(folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> dict[str, Setting]:
    """Every setting from the strongest that sets it: the environment, `./tinyllm.toml` or `[tool.tinyllm]` in
    `./pyproject.toml`, the user's file, the default.

    The setting `serve.port` is `port` in the table `[serve]`, which is `[tool.tinyllm.serve]` in `pyproject.toml`.

    Raises:
        ConfigError: a malformed file (file and line), an unknown key, a value of the wrong type or out of range.
    """
    folder = folder or Path.cwd()
    settings = default_settings()
    for source, table in reversed(list(_tables(folder, environ))):
        for name, value in table.items():
            settings[name] = Setting(value, source)
    for name, spec in known_settings().items():
        if text := environ.get(spec.variable):
            settings[name] = Setting(spec.kind.from_text(spec.variable, text), spec.variable)
    return settings


def _tables(folder: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(source, settings by name) of each file that is there, strongest first."""
    own_file, project, user = folder / "tinyllm.toml", folder / "pyproject.toml", user_file(environ)
    if own_file.is_file():
        yield "tinyllm.toml", _checked(own_file, _parse(own_file))
    elif project.is_file():
        table = _parse(project)
        for key in (("tool",), ("tool", "tinyllm")):
            table = table.get(key[-1], {})
            if not isinstance(table, dict):
                raise ConfigError(f"{project}:{_line(project, key)}: {'.'.join(key)}: expected a table, got {table!r}")
        if table:
            yield "pyproject.toml [tool.tinyllm]", _checked(project, table, ("tool", "tinyllm"))
    if user.is_file():
        yield str(user), _checked(user, _parse(user))


def _parse(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not valid TOML: {error}") from error
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+)", str(error))  # otherwise "(at end of document)"
        line = int(place[1]) if place else len(text.splitlines())
        raise ConfigError(f"{path}:{line}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _checked(
    path: Path, values: Mapping[str, Any], parents: tuple[str, ...] = (), table: str = ""
) -> Mapping[str, Any]:
    """The settings that a table of a file sets, by name.

    Args:
        parents: the keys that lead to it from the top of the file.
        table: its name among the settings, such as `serve`; empty for those that stand in no table.
    """
    settings: dict[str, Any] = {}
    known = known_settings().values()
    specs = {spec.key: spec for spec in known if spec.table == table}
    tables = {spec.table for spec in known} - {table} if not table else set()
    for key, value in values.items():
        where, name = f"{path}:{_line(path, (*parents, key))}", f"{table}.{key}" if table else key
        if key in tables:
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {key}: expected a table, got {value!r}")
            settings |= _checked(path, value, (*parents, key), key)
        elif key not in specs:
            raise ConfigError(f"{where}: unknown setting {name!r}.{suggest(key, {*specs, *tables})}")
        else:
            settings[name] = specs[key].kind.from_file(f"{where}: {name}", value)
    return settings


def _line(path: Path, key: tuple[str, ...]) -> int:
    """The line that sets a key. Other tables may have a key of its name, so what stands above the line must parse
    without it."""
    lines = path.read_text(encoding="utf-8").split("\n")
    named = [n for n, text in enumerate(lines) if key[-1] in text]
    return next((n + 1 for n in reversed(named) if _parses_without("\n".join(lines[:n]), key)), 1)


def _parses_without(text: str, key: tuple[str, ...]) -> bool:
    try:
        table: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    for part in key:
        if part not in table:
            return True
        table = table[part]
    return False
