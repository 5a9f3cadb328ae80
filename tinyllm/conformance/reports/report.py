"""A run of the kit: what was asked for, when, where, with which versions, and each result."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from tinyllm import __version__
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.reports.machine import machine
from tinyllm.conformance.reports.text import without_directories
from tinyllm.conformance.result import BAD, Outcome, Result
from tinyllm.errors import InvalidInputError, quoted
from tinyllm.registry.registry import Registry

VERSION = 1
"""Raised when a field changes its meaning or goes; a reader refuses other versions."""


@dataclass
class Report:
    """The results of a run, with what was tested and where.

    backend, device: what was tested. plan: the fields of the `Plan` that are not empty. when: ISO time of the start.
    machine: `cpu`, `cores`, `os`. versions: of Python, tinyllm, numpy, and what the backend says of itself.
    """

    backend: str
    device: str
    plan: Mapping[str, Any]
    when: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    results: list[Result] = field(default_factory=list)

    @classmethod
    def begin(cls, registry: Registry, plan: Plan) -> Report:
        """A report without results, of this machine and now."""
        import numpy as np

        backend, here = registry.backend(plan.backend), machine()
        asked = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()}
        files = {"shapes": plan.shapes, "solution": plan.solution, "definitions": plan.definitions}
        asked |= {name: PurePath(path).name for name, path in files.items() if path}
        versions = {"python": platform.python_version(), "tinyllm": __version__, "numpy": np.__version__}
        return cls(
            backend=backend.name,
            device=backend.device,
            plan={name: value for name, value in asked.items() if value or name == "seed"},
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            machine={"cpu": here["processor"], "cores": here["cores"], "os": here["platform"]},
            versions=versions | {name: without_directories(str(value)) for name, value in backend.about().items()},
        )

    def add(self, result: Result) -> None:
        """One more result; directories of this machine are taken out of its message."""
        self.results.append(replace(result, message=without_directories(result.message)))

    @property
    def bad(self) -> list[Result]:
        """The results that keep the backend from holding."""
        return [r for r in self.results if r.outcome in BAD]

    @property
    def holds(self) -> bool:
        """Whether something passed and nothing is bad."""
        return not self.bad and any(r.outcome is Outcome.PASS for r in self.results)

    def to_json(self) -> dict[str, Any]:
        """As a file holds it."""
        head = {name: getattr(self, name) for name in ("backend", "device", "plan", "when", "machine", "versions")}
        return head | {"results": [r.to_json() for r in self.results]}

    @classmethod
    def from_json(cls, fields: Any, where: str) -> Report:
        """What `to_json` gave; `where` begins the message of an error.

        Raises:
            InvalidInputError: a field that is missing, unknown or of another kind.
        """
        kinds = {
            "backend": str,
            "device": str,
            "plan": dict,
            "when": str,
            "machine": dict,
            "versions": dict,
            "results": list,
        }
        _check(fields, kinds, set(kinds), where)
        try:
            datetime.fromisoformat(fields["when"])
        except ValueError as error:
            raise InvalidInputError(f"{where}: when: expected an ISO time, got {fields['when']!r}") from error
        results = [_result(row, f"{where}: results[{number}]") for number, row in enumerate(fields["results"])]
        return cls(**fields | {"results": results})


_RESULT: dict[str, Any] = {
    **dict.fromkeys(
        ("id", "backend", "op", "kernel", "dtype", "case", "aspect", "outcome", "message", "how", "where", "snippet"),
        str,
    ),
    **dict.fromkeys(("worst", "bound", "seconds"), float),
    "declared": list,
    "decision": int,
}
_NAMES = {str: "a string", float: "a number", int: "a whole number", list: "a list", dict: "an object"}


def _result(row: Any, where: str) -> Result:
    _check(row, _RESULT, {"id", "backend", "op", "outcome"}, where)
    if row["outcome"] not in set(Outcome):
        raise InvalidInputError(f"{where}: outcome: expected one of {', '.join(Outcome)}, got {row['outcome']!r}")
    for reason in row.get("declared", ()):
        if not isinstance(reason, str):
            raise InvalidInputError(f"{where}: declared: expected strings, got {quoted(reason)}")
    return Result.from_json(row)


def _check(fields: Any, kinds: Mapping[str, type], needed: set[str], where: str) -> None:
    """Each field known and of its kind, none missing."""
    if not isinstance(fields, dict):
        raise InvalidInputError(f"{where}: expected an object, got {type(fields).__name__}")
    for name in needed - fields.keys():
        raise InvalidInputError(f"{where}: {name} is missing")
    for name, value in fields.items():
        if name not in kinds:
            raise InvalidInputError(f"{where}: {quoted(name)} is no field of version {VERSION}")
        kind = kinds[name]
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits or (kind is float and not abs(value) < float("inf")):
            raise InvalidInputError(f"{where}: {name}: expected {_NAMES[kind]}, got {quoted(value)}")
