"""Reports are read again and compared: what has become slower is named, what is no report is refused with the place in
it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinyllm.bench.report import FORMAT, VERSION, check_common, check_threshold, compared, read_report
from tinyllm.errors import InvalidInputError


def timing(op: str = "silu", cold: float = 1e-3, hot: float = 1e-4, **changed: Any) -> dict[str, Any]:
    """A result as a report has it."""
    row = {
        "op": op,
        "case": "decode:1",
        "backend": "numpy",
        "status": "timed",
        "cold": {"median": cold},
        "hot": {"median": hot},
    }
    return row | changed


def report(*results: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A report with no more than is compared."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "machine": {"processor": "x", "cores": 2},
        "results": list(results),
    } | changed


def test_only_what_is_slower_than_the_threshold_is_named() -> None:
    """By more than it, cold or hot, the worst first; faster is fine, and so is exactly the threshold."""
    old = report(timing("silu"), timing("gelu"), timing("add"), timing("rope"), timing("gone"))
    new = report(
        timing("silu", cold=1.3e-3),
        timing("gelu", hot=5e-4),
        timing("add", cold=1.1e-3, hot=1.2e-4),
        timing("rope", 1e-6),
        timing("new"),
    )
    found = compared(old, new, 1.2)
    assert [(r.op, r.what, pytest.approx(r.ratio)) for r in found.regressions] == [
        ("gelu", "hot", 5.0),
        ("silu", "cold", 1.3),
    ]
    assert (found.compared, found.doubts) == (4, ())
    assert str(found.regressions[0]) == "gelu decode:1 on numpy: 5.00 times as long, hot: 500.0 us, was 100.0 us"
    assert compared(old, new, 6.0).regressions == ()
    assert [r.op for r in compared(old, new, 1.05).regressions] == ["gelu", "silu", "add", "add"]


def test_cases_and_backends_are_kept_apart() -> None:
    """A slow backend is not another one's regression."""
    old = report(timing(), timing(cold=9.0, backend="mlx"), timing(cold=7.0, case="prefill:1"))
    new = report(timing(cold=7.0, case="prefill:1"), timing(cold=9.0, backend="mlx"), timing())
    assert compared(old, new, 1.01).regressions == ()


@pytest.mark.parametrize("status", ["wrong", "failed", "unsupported"])
def test_a_time_that_is_gone_is_worse_than_a_slow_one(status: str) -> None:
    """It leads the list and says why; what never had a time is not held against anything."""
    gone = timing(status=status, cold=None, hot=None, reason="off by one")
    found = compared(report(timing(), timing("gelu")), report(timing("gelu", cold=1.0), gone), 1.2).regressions
    assert [(r.op, r.what, r.ratio is None) for r in found] == [("silu", status, True), ("gelu", "cold", False)]
    assert str(found[0]) == f"silu decode:1 on numpy: {status}, was timed before: off by one"
    assert compared(report(gone), report(timing(cold=99.0)), 1.2).compared == 0


def test_another_machine_is_mentioned() -> None:
    """The comparison is made, and the doubt is told."""
    found = compared(report(timing()), report(timing(), machine={"processor": "x", "cores": 64}), 1.2)
    assert found.doubts == ("cores: 64, was 2",)


@pytest.mark.parametrize("threshold", [0.0, -1.2, float("nan"), float("inf")])
def test_a_threshold_must_be_a_number_over_0(threshold: float) -> None:
    """Any other would find everything, or nothing."""
    with pytest.raises(InvalidInputError, match="--threshold: expected a number over 0"):
        check_threshold(threshold)
    with pytest.raises(InvalidInputError, match="--threshold"):
        compared(report(timing()), report(timing()), threshold)


def test_reports_without_anything_in_common_are_refused() -> None:
    """They would pass for ever."""
    check_common(report(timing()), ["silu", "gelu"], ["numpy", "torch"])
    for ops, backends in ((["gelu"], ["numpy"]), (["silu"], ["torch"])):
        with pytest.raises(InvalidInputError, match="--compare: expected a report that timed"):
            check_common(report(timing()), ops, backends)
    with pytest.raises(InvalidInputError):
        check_common(report(timing(status="wrong")), ["silu"], ["numpy"])


def test_a_good_report_is_read(tmp_path: Path) -> None:
    """One that holds results without a time as well."""
    path = tmp_path / "old.json"
    whole = report(timing(), timing(status="wrong", cold=None, hot=None))
    path.write_text(json.dumps(whole))
    assert read_report(path) == whole


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"line 1: is no JSON"),
        ('{\n"a": 1,\n}', r"line 3: is no JSON"),
        ("[" * 100_000, r"is no report"),
        ("[]", r"is no report of tinyllm bench ops"),
        ('{"timings": []}', r"is no report of tinyllm bench ops"),
        (report(version=VERSION + 1), rf"has version {VERSION + 1} of the report, this tinyllm reads {VERSION}"),
        (report(results=None), r"results: expected a list, got NoneType"),
        (report(timing(), 3), r"results\[1\]: expected an object, got int"),  # type: ignore[arg-type]
        (report(timing(op=None)), r"results\[0\]: op: expected a string, got None"),
        (
            report(timing(status="odd")),
            r"results\[0\]: status: expected one of timed, wrong, failed, unsupported, suspect, got 'odd'",
        ),
        (report(timing(cold=0.0)), r"results\[0\]: cold: median: expected seconds over 0, got 0.0"),
        (report(timing(hot="fast")), r"results\[0\]: hot: median: expected seconds over 0, got 'fast'"),  # type: ignore[arg-type]
        (report(timing(cold=None) | {"cold": None}), r"results\[0\]: cold: median: expected seconds over 0, got None"),  # type: ignore[arg-type]
        (report(timing(hot=True)), r"results\[0\]: hot: median: expected seconds over 0, got True"),
        (report(timing(hot=float("nan"))), r"results\[0\]: hot: median: expected seconds over 0, got nan"),
    ],
)
def test_what_is_no_report_is_refused_with_its_place(text: Any, match: str, tmp_path: Path) -> None:
    """The file, and the line or the field."""
    path = tmp_path / "old.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(InvalidInputError, match=rf"old\.json: {match}"):
        read_report(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, a folder, or no text."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, why in (("none", "No such file"), ("", "Is a directory"), ("binary", "is no text file")):
        with pytest.raises(InvalidInputError, match=why):
            read_report(tmp_path / name)
