"""Results and reports made by hand."""

from __future__ import annotations

from typing import Any

from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.result import Outcome, Result

NASTY = "a<b> & \"c\" | `d`\n<script>alert('x')</script> \x1b[31m \x00 \ud800 ]]> {{ 7 * 7 }} *e* _f_"


def result(number: int, outcome: Outcome = Outcome.PASS, op: str = "softmax", **fields: Any) -> Result:
    """A result with an id of its own."""
    known: dict[str, Any] = {"kernel": "plain", "dtype": "float32", "aspect": "", "seconds": 0.5} | fields
    return Result(f"x/{op}:{known['kernel']}[case{number}]", "x", op, case=f"case{number}", outcome=outcome, **known)


def report(*results: Result, backend: str = "x", **plan: Any) -> Report:
    """A report of a machine that is not there."""
    machine = {"cpu": "Abacus", "cores": 2, "os": "none"}
    asked = {"backend": backend, "tiers": ["smoke"], "seed": 7} | plan
    return Report(
        backend, "cpu", asked, "2026-01-31T12:00:00+00:00", machine, {"python": "3.11", "lib": "1.2"}, list(results)
    )


ALL_SIX = report(
    result(1, worst=1.5, bound=4.0, where="(0, 1)"),
    result(2, worst=0.1, bound=8.0),
    result(3, Outcome.FAIL, message=NASTY, snippet="tinyllm check x --case '<1>'", worst=6.0, bound=4.0),
    result(4, Outcome.UNSUPPORTED, message="no | float16", dtype="float16", how=""),
    result(5, Outcome.UNDECLARED, message="says it late"),
    result(6, Outcome.XFAIL, message="nan", declared=("known <1>, since May",)),
    result(7, Outcome.XPASS, message="passes", declared=("known <1>, since May",)),
    result(8, op="rope", kernel="reference", how="reference", worst=2.0, bound=4.0),
    result(9, op="linear", kernel="fast", how="delegation to numpy"),
    result(10, op="linear", kernel="", aspect="numpy call", how=""),
    result(11, op="add", kernel="one"),
    result(12, op="add", kernel="two", how="reference"),
    result(13, op="arrays", kernel="", how=""),
)
