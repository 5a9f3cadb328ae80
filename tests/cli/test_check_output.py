"""What `tinyllm check` prints: a table and colours on a terminal, plain lines in a pipe."""

from __future__ import annotations

import re

import pytest

from tests.conformance.made_reports import ALL_SIX, report, result
from tinyllm.cli import check_output
from tinyllm.conformance.reports.summary import verdict
from tinyllm.conformance.result import Outcome


def test_a_terminal_gets_a_table_of_its_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    check_output.show(ALL_SIX)
    out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    table = out.partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 100 and not any("…" in line for line in table)
    assert re.search(r"softmax +own kernel +no +2 +1 +1 +1 +1 +1 +6 of 4", out)
    assert "\x1b" not in out and "unsup-" in out
    check_output.show(report(result(1)))
    assert "unsup-" not in capsys.readouterr().out, "outcomes that never came up have no column"


def test_through_a_pipe_it_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    check_output.show(ALL_SIX, most=1)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "\x1b" not in out and "─" not in out
    head = lines[0].split("\t")
    row = dict(zip(head, lines[1].split("\t"), strict=True))
    assert row["OP"] == "softmax" and row["DONE BY"] == "own kernel" and row["HOLDS"] == "no"
    assert [row[o.upper()] for o in Outcome] == ["2", "1", "1", "1", "1", "1"]
    assert (row["WORST ULPS"], row["BOUND"]) == ("6", "4")
    assert "fail  x/softmax:plain[case3]" in lines and "    tinyllm check x --case '<1>'" in lines
    assert "and 2 more: 1 undeclared, 1 xpass; --report FILE.html shows all" in lines
    assert "undeclared  x/softmax:plain[case5]" not in lines
    assert lines[-1] == verdict(ALL_SIX)


def test_progress_is_for_terminals(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def go() -> str:
        with check_output.progress(2) as step:
            step("x/softmax[1]", None)
            step("x/softmax[1]", result(1, Outcome.FAIL))
        out, err = capfd.readouterr()
        assert out == ""
        return err

    assert go() == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "1/2" in (shown := go()) and "1 fail" in shown
