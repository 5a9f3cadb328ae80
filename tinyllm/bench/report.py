"""What `tinyllm bench ops --json` prints, how it is read again, and how two such reports compare: what has become
slower, and what no longer runs."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from tinyllm import __version__
from tinyllm.bench.buffers import cache_bytes
from tinyllm.bench.op_result import OpReport, Status
from tinyllm.conformance.reports.json_file import read_document
from tinyllm.conformance.reports.machine import machine
from tinyllm.errors import InvalidInputError, invalid
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


@dataclass(frozen=True)
class Regression:
    """An op that got worse. `what` is `cold` or `hot` with its medians in seconds, or the status that it has instead of
    a time."""

    op: str
    case: str
    backend: str
    what: str
    old: float
    new: float | None = None
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as long it takes."""
        return self.new / self.old if self.new is not None else None

    def __str__(self) -> str:
        name = f"{self.op} {self.case} on {self.backend}"
        if self.new is None:
            return f"{name}: {self.what}, was timed before: {self.reason}"
        return (
            f"{name}: {self.ratio:.2f} times as long, {self.what}: {1e6 * self.new:.1f} us, was {1e6 * self.old:.1f} us"
        )


@dataclass(frozen=True)
class Comparison:
    """How many ops both reports have, those that got worse (the worst first), and what makes the comparison
    doubtful."""

    compared: int
    regressions: tuple[Regression, ...]
    doubts: tuple[str, ...] = ()


def check_threshold(threshold: float) -> None:
    """Raises `InvalidInputError` unless it is a number over 0."""
    if not (isfinite(threshold) and threshold > 0):
        raise invalid("bench ops", "--threshold", "a number over 0, such as 1.2", threshold)


def check_common(old: Mapping[str, Any], ops: Collection[str], backends: Collection[str]) -> None:
    """Raises `InvalidInputError` where none of these ops was timed on one of these backends: nothing would be found
    slower, ever."""
    if not any(
        row["status"] == Status.TIMED and row["op"] in ops and row["backend"] in backends for row in old["results"]
    ):
        raise invalid(
            "bench ops",
            "--compare",
            "a report that timed one of these ops on one of these backends",
            "one that did not",
        )


def compared(old: Mapping[str, Any], new: Mapping[str, Any], threshold: float) -> Comparison:
    """Two reports, op by op: a median, cold or hot, that grew by more than the threshold is a regression, and so is a
    time that is gone.

    Ops that one of the reports was not asked for are left out.

    Raises:
        InvalidInputError: a threshold that is none.
    """
    check_threshold(threshold)
    before = {_key(row): row for row in old["results"] if row["status"] == Status.TIMED}
    after = {_key(row): row for row in new["results"] if _key(row) in before}
    found = [r for key, row in after.items() for r in _regressions(before[key], row, threshold)]
    worst = sorted(found, key=lambda r: -(r.ratio or float("inf")))
    return Comparison(len(after), tuple(worst), tuple(_doubts(old, new)))


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["op"], row["case"], row["backend"]


def _regressions(old: Mapping[str, Any], new: Mapping[str, Any], threshold: float) -> list[Regression]:
    if new["status"] != Status.TIMED:
        return [Regression(*_key(new), str(new["status"]), old["cold"]["median"], None, new.get("reason", ""))]
    pairs = {what: (old[what]["median"], new[what]["median"]) for what in ("cold", "hot")}
    return [Regression(*_key(new), what, was, now) for what, (was, now) in pairs.items() if now > threshold * was]


def _doubts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    machines = [report.get("machine") or {} for report in (old, new)]
    return [
        f"{name}: {machines[1].get(name)}, was {machines[0].get(name)}"
        for name in ("processor", "cores")
        if machines[0].get(name) != machines[1].get(name)
    ]
