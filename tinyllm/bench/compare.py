"""`tinyllm bench ops --compare OLD.json`: what has become slower than it was, and what no longer runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from tinyllm.bench.op_result import Status
from tinyllm.errors import invalid


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


def compare(old: Mapping[str, Any], new: Mapping[str, Any], threshold: float) -> Comparison:
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
