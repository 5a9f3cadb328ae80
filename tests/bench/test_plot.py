"""The plot: every op that moves or computes anything has a place on the roofline, and the file is what its name
says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.bench.conftest import LIMITS
from tinyllm.bench.op_result import OpReport, OpResult, Status, speed
from tinyllm.bench.plot import NO_ARITHMETIC, draw, point
from tinyllm.bench.plot_file import check_plot
from tinyllm.errors import InvalidInputError, TinyllmError


def result(
    op: str, case: str = "decode:1", moved: int = 10**6, computed: int = 10**6, backend: str = "numpy"
) -> OpResult:
    """An op that took a millisecond."""
    times = speed([1e-3], moved, computed)
    return OpResult(op, case, backend, "cpu", bytes=moved, flops=computed, cold=times, hot=times)


MOVES = result("copy", computed=0)
VIEW = result("view", moved=0, computed=0)
WRONG = OpResult("bad", "decode:1", "numpy", "cpu", status=Status.WRONG)
RESULTS = (result("silu"), result("silu", backend="torch"), result("gelu", "prefill:1"), MOVES, VIEW, WRONG)
REPORT = OpReport(RESULTS, {"numpy": LIMITS}, {"cpu": LIMITS})


def test_where_an_op_stands() -> None:
    """By its intensity and its speed; one that only moves data is as far below the roof as its bandwidth is."""
    assert point(result("x", moved=10**6, computed=4 * 10**6)) == (4.0, pytest.approx(4.0))
    place = point(result("x", moved=5 * 10**6, computed=0))
    assert place == (NO_ARITHMETIC, pytest.approx(NO_ARITHMETIC * 5.0))
    assert place[1] / LIMITS.roof(NO_ARITHMETIC) == pytest.approx(LIMITS.share(5 * 10**6, 0, 1e-3) or 0)
    assert point(result("x", moved=0, computed=0)) is None and point(REPORT.results[-1]) is None


def test_a_png(tmp_path: Path) -> None:
    """It can be decoded, and is not an empty sheet."""
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    path = tmp_path / "roof.PNG"
    assert draw(REPORT, path) == ["view"]
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image: Any = np.asarray(imread(path, "png"))
    assert min(image.shape[:2]) > 300 and len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 10


def test_an_svg_shows_every_op_and_the_roof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As text: each op and backend in the legend, its number at its place, a panel per phase, the limits on the
    roof."""
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    path = tmp_path / "roof.svg"
    draw(REPORT, path)
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]
    for legend in (
        "1  copy",
        "2  gelu",
        "3  silu",
        "numpy",
        "torch",
        "decode, float32, cold",
        "prefill, float32, cold",
    ):
        assert " ".join(legend.split()) in [" ".join(t.split()) for t in texts]
    assert [sum(t == number for t in texts) for number in ("1", "2", "3")] == [1, 1, 2]
    assert texts.count("cpu: 10.0 GB/s, 100 GFLOP/s") == 2
    assert not any("view" in t or "bad" in t for t in texts)


def test_nothing_to_draw(tmp_path: Path) -> None:
    """No file rather than an empty one."""
    pytest.importorskip("matplotlib")
    with pytest.raises(TinyllmError, match="nothing to draw"):
        draw(OpReport(REPORT.results[-1:]), tmp_path / "roof.png")
    assert not list(tmp_path.iterdir())


def test_without_limits_there_are_points_and_no_roof(tmp_path: Path) -> None:
    """They are where they are."""
    pytest.importorskip("matplotlib")
    draw(OpReport(REPORT.results), tmp_path / "roof.svg")
    assert (tmp_path / "roof.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "match"),
    [("roof.pdf", "ends in .png or .svg"), ("roof", "ends in .png"), ("none/roof.png", "folder that exists")],
)
def test_a_file_that_cannot_be_written_is_refused_before(name: str, match: str, tmp_path: Path) -> None:
    """Not after minutes of measuring."""
    with pytest.raises(InvalidInputError, match=f"bench ops: --plot: expected a file .*{match}"):
        check_plot("bench ops", tmp_path / name)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        TinyllmError, match=r"^--plot needs matplotlib; install it with: pip install 'tinyllm\[bench\]'$"
    ):
        check_plot("bench ops", tmp_path / "roof.png")
