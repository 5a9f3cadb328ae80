"""What `tinyllm bench ops --json` prints, and how it is read again."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinyllm import __version__
from tinyllm.bench.buffers import cache_bytes
from tinyllm.bench.op_result import OpReport, Status
from tinyllm.conformance.reports.json_file import read_document
from tinyllm.conformance.reports.machine import machine
from tinyllm.errors import InvalidInputError
from tinyllm.registry.registry import Registry

FORMAT = "tinyllm bench ops"
VERSION = 1
"""Raised when a field changes its meaning or goes; a reader refuses other versions."""


def document(report: OpReport, registry: Registry, backends: list[str], rounds: int) -> dict[str, Any]:
    """The report as JSON: what was measured, on which machine, with which libraries, and when."""
    return head(FORMAT, VERSION) | {
        "libraries": libraries(registry, backends),
        "rounds": rounds,
        "limits": {name: asdict(limits) for name, limits in report.limits.items()},
        "roofs": {device: asdict(roof) for device, roof in report.roofs.items()},
        "results": [{"phase": r.phase, **asdict(r)} for r in report.results],
        "notes": list(report.notes),
    }


def head(name: str, version: int) -> dict[str, Any]:
    """What every document of a benchmark begins with: the name and version of its format, when, by which tinyllm and
    where it was made."""
    return {
        "format": name,
        "version": version,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tinyllm": __version__,
        "machine": machine() | {"cache_bytes": cache_bytes()},
    }


def libraries(registry: Registry, backends: list[str]) -> dict[str, dict[str, str]]:
    """Versions of Python and numpy, and what each backend says of itself."""
    import numpy as np

    shared = {"python": platform.python_version(), "numpy": np.__version__}
    return {"python": shared} | {name: dict(registry.backend(name).about()) for name in backends}


def read_report(path: Path) -> dict[str, Any]:
    """A report that `--json` wrote.

    Raises:
        InvalidInputError: names the file, and the line or the field that is wrong.
    """
    document = read_document(path, "tinyllm bench ops --json", FORMAT, VERSION)
    if not isinstance(document.get("results"), list):
        raise InvalidInputError(f"{path}: results: expected a list, got {type(document.get('results')).__name__}")
    for number, row in enumerate(document["results"]):
        problem = _problem(row)
        if problem:
            raise InvalidInputError(f"{path}: results[{number}]: {problem}")
    return document


def _problem(row: Any) -> str:
    """What keeps a result from being compared, or nothing."""
    if not isinstance(row, dict):
        return f"expected an object, got {type(row).__name__}"
    for name in ("op", "case", "backend", "status"):
        if not isinstance(row.get(name), str):
            return f"{name}: expected a string, got {row.get(name)!r}"
    if row["status"] not in set(Status):
        return f"status: expected one of {', '.join(Status)}, got {row['status']!r}"
    if row["status"] != Status.TIMED:
        return ""
    for name in ("cold", "hot"):
        median = row[name].get("median") if isinstance(row.get(name), dict) else None
        if isinstance(median, bool) or not isinstance(median, (int, float)) or not 0 < median < float("inf"):
            return f"{name}: median: expected seconds over 0, got {median!r}"
    return ""
