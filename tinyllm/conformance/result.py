"""The six outcomes of a check, and what is kept of one that ran."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from math import isfinite
from typing import Any


class Outcome(StrEnum):
    """What came of a check. They are never mixed: what is unsupported has not passed."""

    PASS = "pass"
    FAIL = "fail"
    UNSUPPORTED = "unsupported"
    """Declared, with its reason: a dtype that the backend lacks, a call that each of its kernels declines."""
    UNDECLARED = "undeclared"
    """A kernel took a call and then said that it does not support it: a failure."""
    XFAIL = "xfail"
    """It fails, as an `ExpectedFailure` says."""
    XPASS = "xpass"
    """It passes although an `ExpectedFailure` says otherwise: a failure, so that the entry is taken out."""


BAD = frozenset({Outcome.FAIL, Outcome.UNDECLARED, Outcome.XPASS})
"""Outcomes that keep a backend from holding."""


@dataclass(frozen=True)
class Result:
    """A check that ran.

    aspect: what was looked at, empty for the outputs of a case; otherwise `repeat`, `property`, `error`, ...
    how: `kernel`, `reference` (the op's own formula did the work) or `delegation` (another library did).
    worst, bound: the largest error and what is allowed, in ulps of the op (see `judge`); where: the element.
    declared: reasons of declarations that this check made use of.
    """

    id: str
    backend: str
    op: str
    kernel: str
    dtype: str
    case: str
    aspect: str
    outcome: Outcome
    message: str = ""
    how: str = "kernel"
    worst: float | None = None
    bound: float | None = None
    where: str = ""
    seconds: float = 0.0
    declared: tuple[str, ...] = ()
    decision: int | None = None
    snippet: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a report writes it, in plain types; left out are fields that say nothing, and numbers that JSON lacks."""
        said = {name: value for name, value in asdict(self).items() if value not in ("", None, ())}
        finite = {name: value for name, value in said.items() if not isinstance(value, float) or isfinite(value)}
        return finite | {"outcome": self.outcome.value}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Result:
        """What `to_json` gave."""
        defaults = {"kernel": "", "dtype": "", "case": "", "aspect": "", "how": ""}
        read = {"outcome": Outcome(fields["outcome"]), "declared": tuple(fields.get("declared", ()))}
        return Result(**defaults | fields | read)
