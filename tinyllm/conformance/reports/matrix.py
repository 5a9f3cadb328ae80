"""The support matrix: op x dtype down, backends across; what a cell says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Summary, Way, by_dtype, dtype_order, earlier
from tinyllm.conformance.result import Outcome

LEGEND = (
    "n/m: n of the m checks that a kernel took pass; in brackets the worst error and what is allowed, in ulps of "
    "the op. "
    "What is unsupported is in neither number; work done by the reference or by another library is counted apart."
)


@dataclass(frozen=True)
class Row:
    """An op in a dtype (empty: checks that concern none), and for each column its summaries, none where nothing was
    looked at."""

    op: str
    dtype: str
    cells: tuple[tuple[Summary, ...], ...]


def columns(reports: Sequence[Report]) -> list[str]:
    """A name for each report: the backend, where that is not enough with its device, then numbered."""
    backends = Counter(r.backend for r in reports)
    named = [r.backend if backends[r.backend] == 1 else f"{r.backend}:{r.device}" for r in reports]
    numbered = zip(named, earlier(named), strict=True)
    return [f"{name} #{number + 1}" if named.count(name) > 1 else name for name, number in numbered]


def rows(reports: Sequence[Report]) -> list[Row]:
    """Ops in the order in which the reports first name them, dtypes from float32 on."""
    cells: list[dict[tuple[str, str], list[Summary]]] = []
    for report in reports:
        cells.append({})
        for summary in by_dtype(report):
            cells[-1].setdefault((summary.op, summary.dtype), []).append(summary)
    ops = list(dict.fromkeys(op for column in cells for op, _ in column))
    keys = sorted({key for column in cells for key in column}, key=lambda k: (ops.index(k[0]), dtype_order(k[1])))
    return [Row(op, dtype, tuple(tuple(column.get((op, dtype), ())) for column in cells)) for op, dtype in keys]


def cell(summary: Summary) -> str:
    """`312/312 (2.1 of 8)`, `by reference 20/20`, `309/312 (9.3 of 8), 3 fail`, `12 unsupported`."""
    parts = []
    if summary.ran:
        worst = f" ({summary.worst})" if summary.worst else ""
        parts.append(f"{summary.passed}/{summary.ran}{worst}")
    parts += [f"{number} {outcome}" for outcome, number in summary.counts.items() if outcome is not Outcome.PASS]
    label = f"{summary.done_by} " if summary.way in (Way.REFERENCE, Way.DELEGATION) else ""
    return label + ", ".join(parts)
