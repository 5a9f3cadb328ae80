"""The support matrix as Markdown, with what is bad, what is declared and where it ran."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tinyllm.conformance.reports.matrix import LEGEND, cell, columns, rows
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Summary, failures, reasons, verdict
from tinyllm.conformance.reports.text import clean

MOST = 50
"""Failures of a report that are listed; the rest is counted."""


def markdown(reports: Sequence[Report]) -> str:
    """One matrix for all the reports, then a section for each."""
    names = columns(reports)
    lines = ["# Conformance", "", *(f"- {escaped(verdict(r))}" for r in reports), "", "## Support", ""]
    lines += _table(["op", "dtype", *map(escaped, names)], (_row(r.op, r.dtype, r.cells) for r in rows(reports)))
    lines += ["", LEGEND]
    for name, report in zip(names, reports, strict=True):
        lines += _section(name, report)
    return "\n".join(lines) + "\n"


def _row(op: str, dtype: str, cells: Iterable[Sequence[Summary]]) -> list[str]:
    return [
        escaped(op),
        escaped(dtype) or "any",
        *("<br>".join(_cell(s) for s in summaries) or "–" for summaries in cells),
    ]


def _cell(summary: Summary) -> str:
    text = escaped(cell(summary))
    return f"**{text}**" if summary.holds is False else text


def _section(name: str, report: Report) -> list[str]:
    lines = ["", f"## {escaped(name)}", ""]
    parts = (report.machine, {"device": report.device}, report.plan, report.versions, {"when": report.when})
    facts = [(n, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for part in parts for n, v in part.items()]
    lines += _table(["", ""], ([escaped(n), escaped(v)] for n, v in facts))
    bad = failures(report)
    if bad:
        lines += ["", "### Failures", ""]
        lines += [f"- {r.outcome} {_code(r.id)}: {escaped(r.message)}" for r in bad[:MOST]]
    if len(bad) > MOST:
        lines.append(f"- and {len(bad) - MOST} more")
    for title, declared in (("Declared exceptions", True), ("Unsupported", False)):
        listed = [r for r in reasons(report) if r.declared is declared]
        if listed:
            lines += ["", f"### {title}", "", *(f"- {escaped(str(r))}" for r in listed)]
    return lines


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def escaped(text: str) -> str:
    """Text that Markdown and the HTML in it leave as it is, on one line."""
    safe = " ".join(clean(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", safe)


def _code(text: str) -> str:
    """An id as code; backticks have no way to be escaped there."""
    return f"`{' '.join(clean(text).split()).replace('`', chr(39))}`"
