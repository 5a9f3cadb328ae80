"""`tinyllm native bench`: products of every scheme are right ones, each level is measured by itself, and what is
printed is what was measured."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tinyllm.cli.main import main
from tinyllm.errors import TinyllmError
from tinyllm.registry.registry import default_registry

pytest.importorskip("tinyllm_native.bench")
if not default_registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)

from tinyllm_native import bench
from tinyllm_native.bench import EXACT, ROUNDED, SCHEMES, Plan, Report, Speed, drawn, levels_here, measure, products
from tinyllm_native.bench_plot import draw
from tinyllm_native.find import VARIABLE, find_library
from tinyllm_native.linear import embedding

SMALL = Plan(("q4_0", "bfloat16"), rows=96, columns=256, cold=2**16, many=5, many_rows=64, read=2**20, rounds=5)
PLAN = Plan(("q4_0", "float32"))
SPEEDS = (
    Speed("avx2", "q4_0", 4.5, 10.0, 100.0, 150.0),
    Speed("avx2", "float32", 32.0, 30.0, 70.0, None),
    Speed("avx512", "q4_0", 4.5, 20.0, 200.0, 300.0),
)
REPORT = Report(SPEEDS, 40.0, "largest of int32", 2, PLAN)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_timed_is_right(scheme: str) -> None:
    """Products of drawn weights are those of the numbers that the weights stand for, whichever copy has its turn."""
    weights, rng = [drawn(scheme, 40, 512), drawn(scheme, 40, 512)], np.random.default_rng(0)
    weights[0]["codes"] = np.zeros_like(weights[0]["codes"])  # the last one's products are what is left
    numbers = embedding(np.arange(40), weights[1]).astype(np.float64)
    assert np.isfinite(numbers).all() and np.abs(numbers).max() < 100 and numbers.std() > 1e-3
    for rows, limbs, bound in ((1, EXACT, 1e-5), (5, EXACT, 1e-5), (5, ROUNDED, 1e-2)):
        x = rng.standard_normal((rows, 512), np.float32)
        run, y = products(weights, x, limbs)
        assert np.isnan(y).all()
        run()
        size = np.abs(x.astype(np.float64)) @ np.abs(numbers).T
        assert (np.abs(y - x.astype(np.float64) @ numbers.T) / size).max() < bound


def test_each_level_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that run here, whatever the variable allows, each by a library of that level; figures are plausible."""
    monkeypatch.setenv(VARIABLE, "portable")
    found = find_library()
    there = levels_here()
    assert there[0] == "portable" and there[-1] == found.runs and {*there} <= {*found.levels}
    told: list[str] = []
    report = measure(SMALL, there, told.append)
    assert [(s.level, s.scheme) for s in report.speeds] == [(level, name) for level in there for name in SMALL.schemes]
    for speed in report.speeds:
        figures = [speed.bits, speed.gb_s, speed.exact, *([] if speed.rounded is None else [speed.rounded])]
        assert all(math.isfinite(figure) and 0 < figure < 1e5 for figure in figures)
        assert speed.bits == {"q4_0": 4.5, "bfloat16": 16.0}[speed.scheme]
        assert (speed.rounded is None) == (speed.scheme == "bfloat16" and speed.level != "avx512vnni")
        assert any(speed.level in text and speed.scheme in text for text in told)
    assert 0 < report.read_gb_s < 1e5 and report.read_by in bench.READERS


def test_a_speed_is_what_was_read_and_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rounds that take a thousandth of a second: bytes of all copies, and two operations for each weight and row."""
    monkeypatch.setattr(bench, "_times", lambda run, rounds: (run(), [1e-3] * rounds)[1])
    (speed, _) = bench.speeds_of(SMALL, "this")
    copies = 1 + math.ceil(2**16 / (96 * 256 * 4.5 / 8))
    assert speed.gb_s == pytest.approx(copies * 96 * 256 * 4.5 / 8 / 1e-3 / 1e9)
    assert speed.exact == speed.rounded == pytest.approx(2 * 5 * 64 * 256 / 1e-3 / 1e9)


def test_a_level_that_fails_says_why() -> None:
    """In the words of its process."""
    with pytest.raises(TinyllmError, match=r"native bench: portable: .*KeyError: 'q9'"):
        measure(Plan(("q9",), read=2**20), ["portable"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheme", "q4_9"], f"--scheme: expected one of {', '.join(SCHEMES)}, got 'q4_9'"),
        (["--level", "avx3"], "--level: expected one of portable"),
        (["--plot", "speeds.txt"], "--plot: expected a file that ends in .png or .svg, got speeds.txt"),
        (["--plot", "nowhere/speeds.svg"], "--plot: expected a file in a folder that exists, got nowhere/speeds.svg"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *all: pytest.fail("measured"))
    assert main(["native", "bench", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: native bench: {message}")


def test_without_matplotlib_there_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench, "measure", lambda *all: pytest.fail("measured"))
    assert main(["native", "bench", "--plot", "speeds.svg"]) == 1
    assert capsys.readouterr().err == (
        "error: --plot needs matplotlib; install it with: pip install 'tinyllm[bench]'\n"
    )


def test_the_table_has_a_line_for_each_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a pipe with the level in each; what the figures are of stands beside them."""
    asked: list[Any] = []
    monkeypatch.setattr(bench, "measure", lambda *given: asked.append(given) or REPORT)
    assert main(["native", "bench", "--scheme", "q4_0", "--scheme", "float32", "--scheme", "q4_0"]) == 0
    told = capsys.readouterr()
    assert [line.split("\t") for line in told.out.splitlines()[1:]] == [
        ["avx2", "q4_0", "4.50", "10.0", "25%", "100", "150"],
        ["avx2", "float32", "32.00", "30.0", "75%", "70", ""],
        ["avx512", "q4_0", "4.50", "20.0", "50%", "200", "300"],
    ]
    assert asked[0][0] == PLAN and asked[0][1] == levels_here()
    assert "1 row by 32768x1536, 128 rows by 4096x1536, 2 threads, medians of 7" in told.err
    assert "memory: 40.0 GB/s at most, by numpy's largest of int32" in told.err


def test_json_has_all_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the share of what memory gives, and what was measured how."""
    monkeypatch.setattr(bench, "measure", lambda *given: REPORT)
    assert main(["native", "bench", "--json", "--quick", "--rounds", "9"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert {"read_gb_s", "read_by", "threads", "plan", "speeds"} == {*given}
    assert given["speeds"][0] == {
        "level": "avx2",
        "scheme": "q4_0",
        "bits": 4.5,
        "gb_s": 10.0,
        "exact": 100.0,
        "rounded": 150.0,
        "of_read": 0.25,
    }
    assert given["speeds"][1]["rounded"] is None and given["plan"]["schemes"] == ["q4_0", "float32"]


def test_the_command_measures(capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to the library and back, as small as it gets."""
    words = ["native", "bench", "--quick", "--rounds", "1", "--level", "portable", "--scheme", "float16", "--json"]
    assert main(words) == 0
    (speed,) = json.loads(capsys.readouterr().out)["speeds"]
    assert (speed["level"], speed["scheme"], speed["bits"]) == ("portable", "float16", 16.0)
    assert 0 < speed["gb_s"] < 1e4 and speed["of_read"] > 0


def test_the_plot_shows_schemes_levels_and_the_roof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As text in an .svg: what a reader looks for."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    draw(REPORT, tmp_path / "speeds.svg")
    texts = {"".join(e.itertext()).strip() for e in ElementTree.parse(tmp_path / "speeds.svg").iter()}
    assert {"q4_0", "float32", "avx2", "avx512", "memory at most", "one row", "GFLOP/s"} <= texts
    with pytest.raises(TinyllmError, match="cannot be written"):
        draw(REPORT, tmp_path / "speeds.svg" / "more.svg")
