"""Reports read again: what they are compared for, what is wrong with a file, and the commands that do both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.made_reports import ALL_SIX, report, result
from tinyllm.cli.main import main
from tinyllm.conformance.reports.diff import Kind, diff
from tinyllm.conformance.reports.files import read, rendered, write
from tinyllm.conformance.reports.report import Report
from tinyllm.conformance.reports.summary import verdict
from tinyllm.conformance.result import Outcome, Result
from tinyllm.errors import InvalidInputError, TinyllmError

WORSENED: dict[Kind, tuple[Result, Result | None]] = {
    Kind.BROKEN: (result(1, Outcome.UNSUPPORTED), result(1, Outcome.UNDECLARED)),
    Kind.LOST: (result(1), result(1, Outcome.UNSUPPORTED)),
    Kind.GONE: (result(1), None),
    Kind.HANDED_OVER: (result(1), result(1, how="delegation to numpy")),
    Kind.WORSE: (result(1, worst=1.0, bound=4.0), result(1, worst=2.1, bound=4.0)),
}


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_regression_is_named(kind: Kind) -> None:
    was, now = WORSENED[kind]
    steady = result(2)
    found = diff([report(was, steady)], [report(*([now] if now else []), steady)])
    assert [(c.kind, c.id) for c in found.regressions] == [(kind, was.id)] and found.exit_code == 1
    if now:
        back = diff([report(now, steady)], [report(was, steady)])
        assert back.exit_code == 0, "the other way round it is none"


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (result(1, worst=0.1, bound=4.0), result(1, worst=1.9, bound=4.0)),
        (result(1, worst=2.0, bound=4.0), result(1, worst=3.9, bound=4.0)),
        (result(1), result(1, worst=3.9, bound=4.0)),
        (result(1, Outcome.FAIL), result(1, Outcome.FAIL)),
        (result(1, how="delegation to numpy"), result(1, how="reference")),
        (result(1, Outcome.FAIL), result(1, Outcome.XFAIL)),
        (result(1, Outcome.XFAIL), result(1, Outcome.UNSUPPORTED)),
    ],
)
def test_what_is_no_regression(was: Result, now: Result) -> None:
    assert diff([report(was)], [report(now)]).regressions == ()


def test_a_widened_bound_hides_no_growth() -> None:
    found = diff([report(result(1, worst=1.0, bound=4.0))], [report(result(1, worst=30.0, bound=400.0))])
    assert [c.kind for c in found.regressions] == [Kind.WORSE]


REASON = "slow sums, https://example.org/1"


@pytest.mark.parametrize(
    "now",
    [
        result(1, Outcome.XFAIL, declared=(REASON,)),
        result(1, Outcome.UNSUPPORTED, message="no more"),
        result(1, worst=30.0, bound=400.0, declared=(REASON,)),
        result(1, worst=30.0, bound=400.0),
        result(1, worst=1.0, bound=4.0, declared=(REASON,)),
    ],
)
def test_what_is_only_declared_to_be_fine_is_excused(now: Result) -> None:
    found = diff([report(result(1, Outcome.FAIL, worst=30.0, bound=4.0))], [report(now)])
    assert [c.id for c in found.excused] == [now.id] and found.fixed == () == found.regressions


def test_a_pass_with_the_declarations_it_had_is_fixed() -> None:
    was = result(1, Outcome.FAIL, worst=900.0, bound=400.0, declared=(REASON,))
    found = diff([report(was)], [report(result(1, worst=3.0, bound=400.0, declared=(REASON,)))])
    assert [c.id for c in found.fixed] == [was.id] and found.excused == () == found.allowances


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.UNDECLARED, Outcome.XPASS])
def test_a_new_check_that_is_bad_ends_with_code_1(outcome: Outcome) -> None:
    found = diff([report(result(1))], [report(result(1), result(2, outcome))])
    assert [c.new for c in found.new_bad] == [outcome] and found.exit_code == 1
    assert diff([report(result(1))], [report(result(1), result(2, Outcome.XFAIL))]).exit_code == 0


@pytest.mark.parametrize(
    ("outcome", "kind"), [(Outcome.FAIL, Kind.BROKEN), (Outcome.XFAIL, Kind.LOST), (Outcome.UNSUPPORTED, Kind.LOST)]
)
def test_what_passed_against_expectation_passed(outcome: Outcome, kind: Kind) -> None:
    found = diff(
        [report(result(1, Outcome.XPASS, declared=(REASON,)))], [report(result(1, outcome, declared=(REASON,)))]
    )
    assert [c.kind for c in found.regressions] == [kind] and found.excused == () == found.fixed


@pytest.mark.parametrize(
    ("was", "now"), [("kernel", "reference"), ("kernel", "delegation to y"), ("reference", "delegation to y")]
)
def test_work_that_is_handed_over_is_worse(was: str, now: str) -> None:
    found = diff([report(result(1, how=was))], [report(result(1, how=now))])
    assert [(c.kind, c.old, c.new) for c in found.regressions] == [(Kind.HANDED_OVER, was, now)]


def test_allowances_are_listed_once_with_their_number() -> None:
    old = report(*(result(n, worst=1.0, bound=4.0) for n in (1, 2, 3)), result(4, declared=("old",)))
    wide = [result(n, worst=1.0, bound=4000.0, declared=(REASON,)) for n in (1, 2)]
    new = report(
        *wide, result(3, worst=1.0, bound=4.0), result(4, declared=("old",)), result(5, declared=("old", REASON))
    )
    found = diff([old], [new])
    assert [(c.kind, c.id, c.old, c.new, c.message) for c in found.allowances] == [
        ("declared", wide[0].id, "", "3 checks", REASON),
        ("widened", wide[0].id, "4 ulps", "4000 ulps", "2 checks"),
    ]
    assert diff([new], [old]).allowances == () and found.exit_code == 0


def test_fixed_and_new_and_what_was_not_asked() -> None:
    old = report(result(1, Outcome.FAIL), result(2), result(3, op="linear"), result(4, Outcome.UNSUPPORTED, op="rope"))
    new = report(result(1), result(2), result(5), result(6, Outcome.FAIL), ops=["softmax"])
    found = diff([old], [new])
    assert [c.id for c in found.fixed] == [result(1).id]
    assert [c.new for c in found.new] == ["fail", "pass"], "what is bad comes first"
    assert (found.compared, found.not_asked, found.regressions) == (2, 1, ())
    assert any("ops: softmax, was not given" in d for d in found.doubts)
    narrowed: list[Callable[[], Report]] = [
        lambda: report(dtypes=["float16"]),
        lambda: report(kernels=["other"]),
        lambda: report(tiers=["model"]),
        lambda: report(case="x"),
    ]
    for plan in narrowed:
        assert diff([report(result(1))], [plan()]).not_asked == 1
    for wider in (report(tiers=["full"]), report(seed=8), report(ops=["softmax", "linear"])):
        assert [c.kind for c in diff([report(result(1))], [wider]).regressions] == [Kind.GONE], (
            "asked for and not there"
        )


def test_only_the_same_backends_are_compared() -> None:
    with pytest.raises(InvalidInputError, match="expected reports of the same backend, got x:cpu and y:cpu"):
        diff([report(result(1))], [report(backend="y")])
    with pytest.raises(InvalidInputError, match="got two of x:cpu"):
        diff([report(), report()], [report()])
    found = diff([report(result(1)), report(result(2), backend="y")], [report(result(1))])
    assert found.doubts == ("y:cpu is in only one of the two",) and found.exit_code == 0


def _document(**changes: Any) -> str:
    document = json.loads(rendered(".json", [report(result(1))]))
    changes.get("change", lambda d: None)(document)
    return json.dumps(document)


def _row(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda d: d["reports"][0]["results"][0].update(fields)


MALFORMED: list[tuple[str, str]] = [
    ("", "line 1: is no JSON"),
    ("{\n\n]", "line 3: is no JSON"),
    ("[" * 100_000, "is no report"),
    ("9" * 5000, "is no report"),
    ("[1]", "is no report of tinyllm check"),
    ("{}", "is no report of tinyllm check"),
    (_document(change=lambda d: d.update(version=2)), "has version 2 of the report, this tinyllm reads 1"),
    (_document(change=lambda d: d.update(reports=[])), "reports: expected a list of one or more"),
    (_document(change=lambda d: d.update(reports=[3])), "reports[0]: expected an object, got int"),
    (_document(change=lambda d: d["reports"][0].pop("device")), "reports[0]: device is missing"),
    (
        _document(change=lambda d: d["reports"][0].update(when="noon")),
        "reports[0]: when: expected an ISO time, got 'noon'",
    ),
    (
        _document(change=_row(outcome="maybe")),
        "reports[0]: results[0]: outcome: expected one of pass, fail, unsupported",
    ),
    (_document(change=_row(worst="big")), "results[0]: worst: expected a number, got 'big'"),
    (_document(change=_row(seconds=float("nan"))), "results[0]: seconds: expected a number, got nan"),
    (_document(change=_row(decision=True)), "results[0]: decision: expected a whole number, got True"),
    (_document(change=_row(declared=[1])), "results[0]: declared: expected strings, got 1"),
    (_document(change=_row(mood="fine")), "results[0]: 'mood' is no field of version 1"),
    (_document(change=lambda d: d["reports"][0]["results"][0].pop("id")), "results[0]: id is missing"),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED, ids=[message for _, message in MALFORMED])
def test_malformed_files_are_told_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TinyllmError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="is no text file"):
        read(tmp_path / "r.json")
    with pytest.raises(InvalidInputError, match=r"r2\.json: cannot be read: No such file"):
        read(tmp_path / "r2.json")
    with pytest.raises(InvalidInputError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`tinyllm report ...`: exit code, stdout, stderr."""
    import typer
    from typer.main import get_command

    from tinyllm.cli import app as whole
    from tinyllm.cli.report import app

    root = typer.Typer()
    root.add_typer(app, name="report")
    monkeypatch.setattr(whole, "command", lambda: get_command(root))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["report", *map(str, arguments)])
        return code, *capfd.readouterr()

    return call


def test_the_command_shows_and_converts(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    write(tmp_path / "a.json", [ALL_SIX])
    write(tmp_path / "b.json", [report(result(1), backend="y")])
    code, out, _ = run("show", tmp_path / "a.json", tmp_path / "b.json", "--failures", 0)
    assert code == 0 and verdict(ALL_SIX) in out and "y:cpu holds" in out and "and 3 more" in out
    for suffix in ("md", "html", "json"):
        code, out, err = run("show", tmp_path / "a.json", tmp_path / "b.json", "--output", tmp_path / f"both.{suffix}")
        assert (code, out) == (0, "") and f"both.{suffix}" in err
    assert [r.backend for r in read(tmp_path / "both.json")] == ["x", "y"]
    code, out, err = run("show", tmp_path / "nothing.json", "--output", tmp_path / "x.pdf")
    assert code == 2 and out == "" and ".json, .md, .html" in err and err.count("\n") == 1
    code, out, err = run("show", tmp_path / "nothing.json", "--output", tmp_path / "no folder" / "x.md")
    assert code == 2 and out == "" and "expected a folder that is there" in err and err.count("\n") == 1


def test_the_command_compares(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.json", [report(result(1), result(2, Outcome.FAIL))])
    write(tmp_path / "b.json", [report(result(1, Outcome.FAIL, message="off\tby one"), result(2), result(3))])
    code, out, _ = run("diff", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 1
    assert out.splitlines()[1:] == [
        "broken\tx/softmax:plain[case1]\tpass\tfail\toff by one",
        "fixed\tx/softmax:plain[case2]\tfail\tpass\t",
        "1 regression, 1 fixed, 1 new; 2 checks compared",
    ]
    code, out, err = run("diff", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert (code, err, [r["kind"] for r in json.loads(out)["regressions"]]) == (1, "", ["broken"])
    assert run("diff", tmp_path / "a.json", tmp_path / "a.json")[:2] == (
        0,
        "0 regressions, 0 fixed, 0 new; 2 checks compared\n",
    )
    write(
        tmp_path / "d.json",
        [report(result(1), result(2, worst=9.0, bound=40.0, declared=(REASON,)), result(4, Outcome.FAIL))],
    )
    write(tmp_path / "e.json", [report(result(1), result(2, Outcome.FAIL, worst=9.0, bound=4.0))])
    code, out, _ = run("diff", tmp_path / "e.json", tmp_path / "d.json")
    assert code == 1 and [line.split("\t")[0] for line in out.splitlines()[1:-1]] == [
        "new",
        "declared",
        "widened",
        "excused",
    ]
    assert out.splitlines()[-1] == "0 regressions, 0 fixed, 1 excused, 1 new (1 of them bad); 2 checks compared"
    (tmp_path / "c.json").write_text("{}")
    code, out, err = run("diff", tmp_path / "a.json", tmp_path / "c.json")
    assert (code, out) == (2, "") and err.startswith("error: ") and "c.json" in err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    lines = run("diff", tmp_path / "a.json", tmp_path / "b.json")[1].splitlines()
    assert lines[:2] == ["broken  x/softmax:plain[case1]", "    pass -> fail: off by one"], "ids stay whole"
