"""Reads what Python sources import, without importing anything."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Import:
    """An import: `from module import name`, or `import module` with an empty name."""

    module: str
    name: str
    line: int


@cache
def imports(text: str) -> tuple[Import, ...]:
    """Every absolute import of a source text, also those inside functions and under TYPE_CHECKING."""
    found: list[Import] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [Import(node.module, alias.name, node.lineno) for alias in node.names]
    return tuple(found)


def module_sources(package: Path) -> dict[str, str]:
    """The source text of each module of a package by its dotted name; a package is its `__init__`."""
    sources = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources
