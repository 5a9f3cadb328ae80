"""`tinyllm bench ops` as it is typed: tables, JSON, exit codes, and every wrong call refused before anything is
measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.conftest import Cli, with_kernel
from tinyllm import __version__
from tinyllm.bench.op_result import OpReport, OpResult, Status, speed

ON_NUMPY = ("bench", "ops", "--backends", "numpy", "--rounds", "1")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, OpReport]:
    """What the bench is told to find, instead of measuring: `told["report"] = ...`."""
    found = {"report": OpReport((timed("silu"), timed("gelu", "prefill:2"), timed("silu", "prefill:2")))}
    monkeypatch.setattr("tinyllm.bench.ops.bench_ops", lambda *args: found["report"])
    return found


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where something is measured."""
    monkeypatch.setattr("tinyllm.bench.ops.bench_ops", lambda *args: pytest.fail("measured"))


def timed(op: str, case: str = "decode:1", seconds: float = 1e-3, backend: str = "numpy") -> OpResult:
    """A result with numbers that are known."""
    found = speed([seconds, seconds / 2, seconds * 2], 10**6, 10**6)
    return OpResult(
        op, case, backend, "cpu", f"{backend}/{op}:own", bytes=10**6, flops=10**6, cold=found, hot=found, vs_best=1.0
    )


def test_json_has_what_a_script_needs(cli: Cli, small_machine: None) -> None:
    """One versioned object, that says where and when and with what it was measured."""
    ran = cli(*ON_NUMPY, "--ops", "silu,add", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["format"], found["version"], found["tinyllm"], found["rounds"]) == (
        "tinyllm bench ops",
        1,
        __version__,
        1,
    )
    assert found["date"].endswith("+00:00") and found["date"].startswith("20")
    assert found["machine"].keys() == {"platform", "processor", "cores", "cache_bytes"} and all(
        found["machine"].values()
    )
    assert found["libraries"]["python"]["numpy"] == np.__version__ and "numpy" in found["libraries"]
    assert found["limits"] == {"numpy": {"gb_s": 10.0, "gflop_s": 100.0}} and found["roofs"] == {
        "cpu": {"gb_s": 10.0, "gflop_s": 100.0}
    }
    assert {(r["op"], r["phase"]) for r in found["results"]} == {
        (op, p) for op in ("silu", "add") for p in ("decode", "prefill")
    }
    for row in found["results"]:
        assert (row["status"], row["backend"], row["device"], row["vs_numpy"], row["vs_best"]) == (
            "timed",
            "numpy",
            "cpu",
            1.0,
            1.0,
        )
        assert (
            row["bytes"] > 0
            and row["flops"] > 0
            and row["first_call"] > 0
            and row["copies"] >= 2
            and row["cold_by"] == "rotation"
        )
        for kind in ("cold", "hot"):
            assert row[kind].keys() == {"median", "low", "high", "gb_s", "gflop_s", "of_roof"}


def test_a_pipe_gets_one_plain_table(cli: Cli, told: Any) -> None:
    """Tabs, a header, a row for each result, decode before prefill, each row as long as the header."""
    ran = cli(*ON_NUMPY)
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert ran.code == 0 and "\x1b" not in ran.out and "─" not in ran.out
    assert rows[0] == [cell.upper() for cell in rows[0]] and {len(r) for r in rows} == {15}
    assert [row[:3] for row in rows[1:]] == [
        ["decode", "silu", "1"],
        ["prefill", "gelu", "2"],
        ["prefill", "silu", "2"],
    ]
    assert rows[1][4:12] == ["numpy/silu:own", "timed", "1000.0", "150%", "1000.0", "1", "1", ""]


def test_a_terminal_gets_a_table_for_each_phase(cli: Cli, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped by op: its name stands once."""
    told["report"] = OpReport(
        (timed("silu"), timed("silu", backend="torch"), OpResult("silu", "decode:1", "mlx", "cpu", status=Status.WRONG))
    )
    monkeypatch.setattr("tinyllm.cli.bench_ops.sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", cli(*ON_NUMPY).out).splitlines()
    assert lines[0].strip() == "decode" and not any("prefill" in line for line in lines)
    assert sum("silu" in line for line in lines) == 1
    assert [
        next(i for i, line in enumerate(lines) if text in line) for text in ("numpy own", "torch own", "wrong")
    ] == [4, 5, 6]


@pytest.mark.parametrize(("status", "code"), [(Status.WRONG, 1), (Status.FAILED, 1), (Status.UNSUPPORTED, 0)])
def test_what_is_wrong_is_named_and_ends_with_1(status: Status, code: int, cli: Cli, told: Any) -> None:
    """The reason goes to stderr, the row stands without figures; unsupported is no failure."""
    told["report"] = OpReport(
        (replace(timed("silu"), cold=None, hot=None, status=status, reason="off by one"), timed("gelu")), notes=("so",)
    )
    ran = cli(*ON_NUMPY)
    assert ran.code == code
    assert ran.err.splitlines() == [f"{status}: silu decode:1 on numpy: off by one", "so"]
    assert f"{status}\t\t\t" in ran.out


def test_a_wrong_kernel_from_end_to_end(cli: Cli, small_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale is missing."""
    where = with_kernel("silu", lambda x: x)
    monkeypatch.setattr("tinyllm.registry.registry.load_plugins", lambda catalogue: where.plugins)
    ran = cli(*ON_NUMPY, "--ops", "silu")
    assert ran.code == 1 and "wrong: silu decode:1x1536 on numpy: error of" in ran.err


def test_compare_names_what_is_slower_and_ends_with_1(cli: Cli, told: Any, tmp_path: Path) -> None:
    """With the same times it ends with 0; --json carries the comparison."""
    old = tmp_path / "old.json"
    old.write_text(cli(*ON_NUMPY, "--json").out)
    again = cli(*ON_NUMPY, "--compare", str(old))
    assert again.code == 0 and f"0 of 3 are slower than 1.2 times {old}" in again.err
    told["report"] = OpReport((timed("silu", seconds=1.5e-3), timed("gelu", "prefill:2")))
    slower = cli(*ON_NUMPY, "--compare", str(old))
    assert slower.code == 1
    assert "slower: silu decode:1 on numpy: 1.50 times as long, cold: 1500.0 us, was 1000.0 us" in slower.err
    assert f"1 of 2 are slower than 1.2 times {old}" in slower.err and "gelu" not in slower.err
    assert cli(*ON_NUMPY, "--compare", str(old), "--threshold", "1.6").code == 0
    asked = cli(*ON_NUMPY, "--compare", str(old), "--json")
    found = json.loads(asked.out)["comparison"]
    assert asked.code == 1 and (found["threshold"], found["compared"]) == (1.2, 2)
    assert {(r["op"], r["what"], round(r["ratio"], 3)) for r in found["regressions"]} == {
        ("silu", "cold", 1.5),
        ("silu", "hot", 1.5),
    }


def test_plot_writes_the_file(cli: Cli, told: Any, tmp_path: Path) -> None:
    """Beside the table; what has no place on it is told."""
    pytest.importorskip("matplotlib")
    idle = replace(timed("split"), bytes=0, flops=0)
    told["report"] = OpReport((timed("silu"), idle))
    ran = cli(*ON_NUMPY, "--plot", str(tmp_path / "roof.svg"))
    assert ran.code == 0 and (tmp_path / "roof.svg").read_text().count("<svg") == 1
    assert "not on the roofline, as they neither move nor compute anything: split" in ran.err and "silu" in ran.out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--ops", "sofmax"], "unknown op 'sofmax'. Did you mean 'softmax'?"),
        (["--ops", "silu,sofmax"], "unknown op 'sofmax'"),
        (["--backends", "nunpy"], "unknown backend 'nunpy'. Did you mean 'numpy'?"),
        (["--threshold", "0"], "--threshold: expected a number over 0"),
        (["--threshold", "-1"], "--threshold: expected a number over 0"),
        (["--rounds", "0"], "--rounds"),
        (["--compare", "none.json"], "none.json: cannot be read"),
        (["--compare", "bad.json"], "bad.json: line 2: is no JSON"),
        (["--compare", "empty.json"], "--compare: expected a report that timed one of these ops"),
        (["--plot", "roof.pdf"], "bench ops: --plot: expected a file that ends in .png or .svg"),
    ],
)
def test_wrong_calls_are_refused_at_once(
    arguments: list[str],
    match: str,
    cli: Cli,
    unmeasured: None,
    clean_environment: pytest.MonkeyPatch,
) -> None:
    """In one line, with exit code 2."""
    Path("bad.json").write_text("{\n,}")
    Path("empty.json").write_text('{"format": "tinyllm bench ops", "version": 1, "results": []}')
    ran = cli("bench", "ops", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert match in ran.err and ran.err.count("\n") == 1 and ran.err.startswith("error: ")


def test_a_missing_matplotlib_is_told_at_once(cli: Cli, unmeasured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = cli(*ON_NUMPY, "--plot", "roof.png")
    assert (ran.code, ran.err) == (1, "error: --plot needs matplotlib; install it with: pip install 'tinyllm[bench]'\n")


def test_matplotlib_is_imported_for_a_plot_alone() -> None:
    """Neither it nor an array library beside numpy comes with the bench's modules."""
    modules = "tinyllm.bench.ops, tinyllm.bench.plot, tinyllm.bench.report"
    code = f"import sys, {modules}; print([m for m in ('matplotlib', 'torch', 'mlx') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
