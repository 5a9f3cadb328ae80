"""`tinyllm check` from outside: wrong names, processes that die or hang, exit codes, declarations."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Command
from tinyllm.conformance.reproduce import reproduce
from tinyllm.errors import UnknownNameError


def _outcomes(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {r["id"]: (r["outcome"], r.get("message", "")) for r in report["results"]}


@pytest.fixture
def stubborn(command: Command) -> Any:
    """Checks some ops of the backend that fails on purpose, and gives (exit code, outcomes)."""

    def run(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
        done = command("check", "stubborn", "--dtype", "float32", "--json", *arguments)
        return done.returncode, _outcomes(json.loads(done.stdout))

    return run


def test_an_abort_costs_one_check(stubborn: Any) -> None:
    """The process that dies takes one check with it, with its last words; all before and after it are told."""
    code, found = stubborn("--op", "softmax", "--isolate")
    assert code == 1
    assert found["stubborn/softmax:own[3x7,f32]"] == ("fail", "the process was ended by SIGABRT: not today")
    assert found["stubborn/softmax:own[5,f32]"][0] == found["stubborn/softmax:own[large,f32]"][0] == "pass"


def test_a_hang_is_cut_off(stubborn: Any) -> None:
    code, found = stubborn("--case", "stubborn/add:own[5,f32]", "--timeout", "1")
    assert (code, found) == (1, {"stubborn/add:own[5,f32]": ("fail", "no answer within 1 s: cut off")})


def test_outcomes_are_not_mixed(stubborn: Any) -> None:
    """Widened and expected as declared; what a kernel refuses only when it runs is undeclared, what it declines is
    unsupported."""
    _, found = stubborn("--op", "silu", "--op", "swiglu", "--op", "gelu")
    assert found["stubborn/silu:own[5,f32]"][0] == "pass"
    assert found["stubborn/silu:own[0,f32]"] == ("xfail", found["stubborn/silu:own[0,f32]"][1])
    assert "ValueError: empty" in found["stubborn/silu:own[0,f32]"][1]
    swiglu = {
        outcome
        for name, (outcome, _) in found.items()
        if name.startswith("stubborn/swiglu:own[") and name.endswith("f32]")
    }
    assert swiglu == {"undeclared"}
    gelu = {
        outcome for name, (outcome, _) in found.items() if name.startswith("stubborn/gelu") and name.endswith("f32]")
    }
    assert gelu == {"unsupported"}


def test_in_one_process_and_in_many_the_results_are_the_same(command: Command) -> None:
    """`--isolate` changes who dies, not what is found."""
    runs = [
        command("check", "numpy", "--op", "add", "--op", "softmax", "--json", *more) for more in ((), ("--isolate",))
    ]
    first, second = (_outcomes(json.loads(run.stdout)) for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert first == second and len(first) > 50


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("numppy",), "unknown backend 'numppy'. Did you mean 'numpy'?"),
        (("numpy", "--op", "sdap"), "unknown op 'sdap'. Did you mean 'sdpa'?"),
        (("numpy", "--tier", "ful"), "unknown tier 'ful'. Did you mean 'full'?"),
        (("numpy", "--dtype", "float31"), "unknown dtype 'float31'. Did you mean 'float32'?"),
        (("numpy", "--kernel", "onw"), "unknown kernel 'onw'. Did you mean 'own'?"),
        (("numpy", "--scheme", "q4k"), "unknown scheme 'q4k'. Did you mean 'q4_k'?"),
        (("numpy", "--oracle", "onxx"), "unknown oracle 'onxx'. Did you mean 'onnx'?"),
        (("numpy", "--op", "softmax", "--case", "softmax[3x8,f32]"), "The closest are: softmax[3x7,f32]"),
        (("numpy", "--case", "/nowhere/case"), "check: --case: /nowhere/case: expected a file that tinyllm diff wrote"),
        (("--case", "no/where"), "check: --case: no/where: expected a file that tinyllm diff wrote, got none"),
        (("numpy", "--case", "nowhere"), "expected a check such as 'sdpa[L3,S5,D4,f32]', or a file that is there, got"),
        (("numpy", "--case", "sdap"), "got 'sdap'; --op sdpa runs all checks of that op"),
        (("numpy", "--shapes", "nowhere.jsonl"), "nowhere.jsonl"),
        (("numpy", "--report", "report.pdf"), ".html"),
    ],
)
def test_wrong_names(command: Command, arguments: tuple[str, ...], words: str) -> None:
    """One line that says what is near, and code 2."""
    done = command("check", *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1


def test_a_shapes_file_without_the_op(command: Command, tmp_path: Path) -> None:
    """Nothing would run: that is no pass."""
    (tmp_path / "calls.jsonl").write_text('{"op": "softmax", "inputs": {"x": {"dtype": "float32", "shape": [2, 3]}}}\n')
    done = command("check", "numpy", "--shapes", "calls.jsonl", "--op", "linear")
    assert done.returncode == 2 and "shapes file calls.jsonl: has no call of 'linear', only of softmax" in done.stderr
    assert command("check", "numpy", "--shapes", "calls.jsonl", "--op", "softmax").returncode == 0


def test_wrong_names_under_pytest(command: Command) -> None:
    """A line and the code of usage errors, and no file is blamed."""
    done = command("--pyargs", "tinyllm.conformance", "--tinyllm-backend", "nunpy", module="pytest")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert (
        "ERROR: unknown backend 'nunpy'. Did you mean 'numpy'?" in done.stdout + done.stderr
        and "test_backend.py" not in done.stdout
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_under_pytest_alone_and_shared(command: Command, tmp_path: Path, workers: str) -> None:
    """The results are those of `tinyllm check`, also when processes share the tests (pytest-xdist)."""
    arguments = ("--tinyllm-backend", "numpy", "--tinyllm-op", "add", "--tinyllm-report", "report.json", "-n", workers)
    done = command("--pyargs", "tinyllm.conformance", *arguments, "--junitxml", "junit.xml", module="pytest")
    assert done.returncode == 0, done.stdout[-2000:]
    (report,) = json.loads((tmp_path / "report.json").read_text())["reports"]
    assert len(list(ET.parse(tmp_path / "junit.xml").iter("testcase"))) == len(report["results"])
    alone = json.loads(command("check", "numpy", "--op", "add", "--json").stdout)
    assert _outcomes(report) == _outcomes(alone) and len(_outcomes(alone)) > 50


def test_a_failure_can_be_pasted(command: Command) -> None:
    """What a failure prints runs the same check again, and shows its data."""
    done = command("check", "stubborn", "--op", "swiglu", "--dtype", "float32", "--json")
    failed = next(
        r for r in json.loads(done.stdout)["results"] if r["outcome"] == "undeclared" and "/swiglu:own[" in r["id"]
    )
    again = command("check", "stubborn", "--case", failed["id"], "--json")
    assert _outcomes(json.loads(again.stdout)) == {failed["id"]: ("undeclared", failed["message"])}
    assert f"tinyllm check stubborn --case {failed['id']!r}" in failed["snippet"]


def test_reports_are_written(command: Command, tmp_path: Path) -> None:
    files = [tmp_path / f"report{suffix}" for suffix in (".json", ".md", ".html")]
    done = command("check", "numpy", "--op", "add", *(part for file in files for part in ("--report", str(file))))
    assert done.returncode == 0
    assert all(file.stat().st_size > 100 for file in files)


def test_a_broken_plugin_tells_its_cause(command: Command, tmp_path: Path) -> None:
    """Its import fails: the error and its class are told, and nothing else."""
    site = tmp_path / "broken"
    info = site / "torn-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torn\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tinyllm]\ntorn = torn\n")
    (site / "torn.py").write_text("import no_such_library\n")
    done = command("check", "torn", path=site)
    assert done.returncode == 1
    assert "backend 'torn': its plugin is broken: ModuleNotFoundError: No module named 'no_such_library'" in done.stderr


def test_what_is_no_whole_id_cannot_be_reproduced() -> None:
    for name in ("nonsense", "softmax[5,f32]"):
        with pytest.raises(UnknownNameError, match="expected the whole id of a check, such as"):
            reproduce(name)
