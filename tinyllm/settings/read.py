"""What the user asked for, and where each setting came from. Files are read, never written."""

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
from tinyllm.settings.known import KNOWN as KNOWN
from tinyllm.settings.known import TABLES, from_file, from_text

DEFAULT = "default"


@dataclass(frozen=True)
class Setting:
    """A value and where it came from (`TINYLLM_BACKEND`, `tinyllm.toml`, `default`)."""

    value: Any
    source: str


def user_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's own configuration file (it need not exist)."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "tinyllm" / "tinyllm.toml"
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tinyllm" / "tinyllm.toml"


def read_settings(folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> dict[str, Setting]:
    """Every setting, from the environment, `./tinyllm.toml` or `[tool.tinyllm]` in `./pyproject.toml`, the user's file,
    or default.

    `serve.port` is `port` in the table `[serve]` (`[tool.tinyllm.serve]`).

    Raises:
        ConfigError: a malformed file (file and line), an unknown key, a value of the wrong type or out of range.
    """
    folder = folder or Path.cwd()
    settings = {name: Setting(known.default, DEFAULT) for name, known in KNOWN.items()}
    for source, table in reversed(list(_tables(folder, environ))):
        for name, value in table.items():
            settings[name] = Setting(value, source)
    for name, known in KNOWN.items():
        if text := environ.get(known.variable):
            settings[name] = Setting(from_text(known.variable, text, known.kind), known.variable)
    return settings


def _tables(folder: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The files in order of precedence, strongest first."""
    own, project, user = folder / "tinyllm.toml", folder / "pyproject.toml", user_file(environ)
    if own.is_file():
        yield "tinyllm.toml", _checked(own, _parse(own))
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
        told = re.search(r"\(at line (\d+)", str(error))  # otherwise "(at end of document)"
        raise ConfigError(f"{path}:{told[1] if told else len(text.splitlines())}: not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _checked(
    path: Path, table: Mapping[str, Any], inside: tuple[str, ...] = (), command: str = ""
) -> Mapping[str, Any]:
    """The settings of a table by their names in `KNOWN`. inside: where in the file it is. command: whose table it
    is."""
    found: dict[str, Any] = {}
    beside = {name.rpartition(".")[2] for name in KNOWN if name.rpartition(".")[0] == command}
    for key, value in table.items():
        where, name = f"{path}:{_line(path, (*inside, key))}", f"{command}.{key}" if command else key
        if not command and key in TABLES:
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {key}: expected a table, got {value!r}")
            found |= _checked(path, value, (*inside, key), key)
        elif key not in beside:
            raise ConfigError(
                f"{where}: unknown setting {name!r}.{suggest(key, beside if command else {*beside, *TABLES})}"
            )
        else:
            found[name] = from_file(f"{where}: {name}", value, KNOWN[name].kind)
    return found


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
