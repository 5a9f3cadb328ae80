"""Reports: every form says the same, and nothing is mixed."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conformance.made_reports import ALL_SIX, report, result
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.reports.files import check_suffix, read, rendered, write
from tinyllm.conformance.reports.matrix import cell, columns, rows
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import Way, by_op, counts, failures, idle, reasons, verdict
from tinyllm.conformance.result import BAD, Outcome
from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.plugins.declarations import Widened
from tinyllm.registry.registry import default_registry


def test_begin_names_the_machine_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = default_registry()
    backend = type(registry.backend("numpy"))
    monkeypatch.setattr(
        backend, "about", lambda self: {"BLAS": "/opt/me/libblas.so.3 of 1/2", "link": "https://a.b/c/d"}
    )
    begun = Report.begin(registry, Plan("numpy", ops=("softmax",), shapes="/srv/shapes.json"))
    assert (begun.backend, begun.device, begun.plan["shapes"]) == ("numpy", "cpu", "shapes.json")
    assert begun.plan["ops"] == ["softmax"] and begun.plan["seed"] == 0 and "kernels" not in begun.plan
    assert begun.versions["BLAS"] == "libblas.so.3 of 1/2" and begun.versions["link"] == "https://a.b/c/d"
    assert {"python", "tinyllm", "numpy"} <= begun.versions.keys() and set(begun.machine) == {"cpu", "cores", "os"}
    begun.add(result(1, Outcome.FAIL, message="no /srv/lib/kernel.so; x/softmax[1/2] stays"))
    assert begun.results[0].message == "no kernel.so; x/softmax[1/2] stays"


def test_holding_needs_a_pass_and_nothing_bad() -> None:
    assert report(result(1)).holds
    assert not report().holds
    assert not report(result(1, Outcome.UNSUPPORTED)).holds, "what is unsupported has not passed"
    assert report(result(1), result(2, Outcome.XFAIL)).holds
    for outcome in BAD:
        assert not report(result(1), result(2, outcome)).holds


def test_outcomes_and_ways_are_counted_apart() -> None:
    found = {(s.op, s.way): s for s in by_op(ALL_SIX)}
    softmax = found["softmax", Way.OWN]
    assert dict(softmax.counts) == {o: 2 if o is Outcome.PASS else 1 for o in Outcome}
    assert (softmax.passed, softmax.ran, softmax.holds, softmax.kernels) == (2, 6, False, {"plain": False})
    assert softmax.worst is not None and (softmax.worst.ulps, softmax.worst.id) == (6.0, ALL_SIX.results[2].id)
    assert found["rope", Way.REFERENCE].done_by == "by reference"
    assert ("rope", Way.OWN) not in found
    linear = found["linear", Way.DELEGATION]
    assert (linear.passed, linear.done_by) == (2, "by delegation to numpy"), "calls count for the way their op is done"
    assert [found["add", w].passed for w in (Way.OWN, Way.REFERENCE)] == [1, 1]
    assert found["arrays", Way.NOBODY].done_by == ""
    assert sum(sum(s.counts.values()) for s in found.values()) == len(ALL_SIX.results)
    line = verdict(ALL_SIX)
    assert line.startswith(
        "x:cpu does not hold: 1 op by own kernels, 2 by reference, 1 by delegation, 1 does not hold;"
    )
    assert line.endswith("8 pass, 1 fail, 1 unsupported, 1 undeclared, 1 xfail, 1 xpass")


def test_kernels_that_hold_are_told_from_those_that_do_not() -> None:
    fine, broken, idle = (
        result(1, kernel="a"),
        result(2, Outcome.FAIL, kernel="b"),
        result(3, Outcome.UNSUPPORTED, kernel="c"),
    )
    assert by_op(report(fine))[0].done_by == "own kernel"
    assert by_op(report(fine, broken))[0].done_by == "1 of 2 own kernels"
    assert by_op(report(fine, idle))[0].done_by == "1 own kernel, 1 idle"
    assert by_op(report(idle))[0].holds is None


def test_the_worst_error_is_the_one_nearest_to_its_bound() -> None:
    (summary,) = by_op(report(result(1, worst=7.0, bound=100.0), result(2, worst=3.0, bound=4.0), result(3)))
    assert summary.worst is not None and str(summary.worst) == "3 of 4"
    (summary,) = by_op(report(result(1, worst=7.0, bound=100.0), result(2, worst=0.5, bound=0.0)))
    assert summary.worst is not None and summary.worst.bound == 0


def test_reasons_come_once_with_counts() -> None:
    declared, unsupported = reasons(ALL_SIX)
    assert declared.declared and dict(declared.counts) == {Outcome.XFAIL: 1, Outcome.XPASS: 1}
    assert (unsupported.text, unsupported.ops) == ("no | float16", ("softmax",))


def test_declarations_about_nothing_are_told() -> None:
    """Of the whole kit's run; in a part of it nothing may be due to them. Those of other backends are theirs."""
    slip, fits, other = (
        Widened(*names, "rounds", factor=2.0) for names in (("x", "sotfmax"), ("x", "soft*"), ("y", "sotfmax"))
    )
    whole = report(result(1), tiers=["full"])
    assert idle(whole, [slip, fits, other]) == [slip]
    assert idle(report(result(1)), [slip]) == idle(report(result(1), tiers=["full"], ops=["softmax"]), [slip]) == []


def test_failures_show_each_kernel_before_more_of_the_same() -> None:
    bad = [result(n, Outcome.FAIL, kernel=k) for n, k in enumerate("aaab")]
    assert [r.kernel for r in failures(report(result(9), *bad))] == ["a", "b", "a", "a"]


def test_json_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write(path, [ALL_SIX, report(backend="y")])
    assert read(path) == [ALL_SIX, report(backend="y")]
    write(path, [report(result(1, worst=float("inf"), bound=4.0, seconds=float("nan")))])
    assert read(path)[0].results[0].worst is None, "JSON has no infinity"


def _cells(line: str) -> list[str]:
    return [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_tables_keep_their_columns() -> None:
    other = report(result(1, op="a|b", message="x"), backend="y|z")
    text = rendered(".md", [ALL_SIX, other])
    lines = text.splitlines()
    start = lines.index("## Support") + 2
    table = [_cells(line) for line in lines[start : lines.index("", start)]]
    assert table[0] == ["op", "dtype", "x", r"y\|z"] and {len(row) for row in table} == {4}
    found = {(row[0], row[1]): row[2:] for row in table}
    assert found["softmax", "float32"] == ["**2/6 (6 of 4), 1 fail, 1 undeclared, 1 xfail, 1 xpass**", "–"]
    assert found["softmax", "float16"] == ["1 unsupported", "–"]
    assert found["rope", "float32"][0] == "by reference 1/1 (2 of 4)"
    assert found["add", "float32"][0] == "1/1<br>by reference 1/1"
    assert found[r"a\|b", "float32"] == ["–", "1/1"]
    assert "<script>" not in text and "&lt;script&gt;" in text and "\x1b" not in text
    assert "Abacus" in text and "1.2" in text


class _Page(HTMLParser):
    """Every element must be closed in order; keeps elements, attributes and text."""

    VOID = frozenset({"meta", "input", "link", "br", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def test_html_is_one_safe_page() -> None:
    text = rendered(".html", [ALL_SIX, report(result(1), backend="y")])
    page = _Page(text)
    assert page.open == []
    assert page.seen.count("script") == 1, "a message brought a script of its own"
    assert "<script>alert('x')</script>" in page.text and "{{ 7 * 7 }}" in page.text
    assert not {name for name, _ in page.attributes} & {"src", "href"} and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and "\x1b" not in text
    shown = [value for name, value in page.attributes if name == "data-outcome"]
    assert sorted(str(s) for s in shown) == ["fail", "undeclared", "xfail", "xpass"], (
        "passes and unsupported checks are no failures"
    )
    for words in (
        "2/6 (6 of 4)",
        "by delegation to numpy",
        "Abacus",
        "no | float16",
        "known <1>, since May",
        "--case '<1>'",
    ):
        assert words in page.text
    assert 'id="checks"' not in rendered(".html", [report(result(1))])


def test_matrix_names_columns_apart() -> None:
    x, gpu = report(result(1)), replace(report(result(1)), device="gpu")
    assert columns([x, report(backend="y")]) == ["x", "y"]
    assert columns([x, gpu]) == ["x:cpu", "x:gpu"]
    assert columns([x, x]) == ["x:cpu #1", "x:cpu #2"]
    first, second = rows([report(result(1, dtype="")), report(result(1, dtype="float16"))])
    assert [(r.dtype, len(r.cells[0]), len(r.cells[1])) for r in (first, second)] == [("float16", 0, 1), ("", 1, 0)]
    assert cell(first.cells[1][0]) == "1/1"


def test_suffixes(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a name that ends in \.json, \.md, \.html, got '\.txt'"):
        write(tmp_path / "r.txt", [ALL_SIX])
    assert check_suffix("A.HTML") == ".html"
    with pytest.raises(TinyllmError, match=r"missing/r\.md: cannot be written: No such file"):
        write(tmp_path / "missing" / "r.md", [ALL_SIX])


def test_counts_keep_the_order_of_outcomes() -> None:
    assert list(counts([result(1, Outcome.XPASS), result(2), result(3, Outcome.FAIL)])) == [
        Outcome.PASS,
        Outcome.FAIL,
        Outcome.XPASS,
    ]
