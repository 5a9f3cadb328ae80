"""One page that can be sent: no outside address, light and dark, everything escaped."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from tinyllm.conformance.reports.matrix import LEGEND, cell, columns, rows
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Summary, Way, by_op, reasons, verdict
from tinyllm.conformance.reports.text import clean
from tinyllm.conformance.result import BAD, Outcome

TEMPLATE = "page.html.jinja"
LISTED = BAD | {Outcome.XFAIL}
"""Outcomes that the page lists check by check."""


def html(reports: Sequence[Report]) -> str:
    """The page of one or more reports."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    page = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    names = columns(reports)
    return page.render(
        reports=list(zip(names, reports, strict=True)),
        rows=rows(reports),
        listed=[
            (name, r)
            for name, report in zip(names, reports, strict=True)
            for r in report.results
            if r.outcome in LISTED
        ],
        outcomes=[o for o in Outcome if o in LISTED],
        bad=BAD,
        all_outcomes=list(Outcome),
        tone=tone,
        by_op=by_op,
        cell=cell,
        reasons=reasons,
        verdict=verdict,
        legend=LEGEND,
    )


def tone(summary: Summary) -> str:
    """The class of a cell: work that is handed over does not look like work that is done."""
    if summary.holds and summary.way in (Way.REFERENCE, Way.DELEGATION):
        return "odd"
    return {True: "good", False: "bad", None: "faint"}[summary.holds]


def _shown(value: object) -> object:
    """Strings without control characters; lists as they are read."""
    if isinstance(value, list | tuple):
        return clean(", ".join(map(str, value)))
    return clean(value) if type(value) is str else value
