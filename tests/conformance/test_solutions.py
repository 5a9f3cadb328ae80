"""Kernels of others: solutions in JSON and plain Python are judged as kernels are, in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Cli, cli
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.example import make_example
from tinyllm.conformance.isolate import run_isolated
from tinyllm.conformance.result import BAD, Outcome, Result
from tinyllm.conformance.solution import planned
from tinyllm.definitions.collect import of_calls
from tinyllm.definitions.export import write
from tinyllm.definitions.solution import KERNEL
from tinyllm.definitions.workload import write_arrays
from tinyllm.errors import InvalidInputError, TinyllmError, UnknownNameError, UnsupportedError
from tinyllm.registry.registry import default_registry

__all__ = ["cli"]

NORM = "x / np.sqrt((x * x).mean(-1, keepdims=True, dtype=np.float32) + eps) * weight"
HEAD = "import os, time\nimport numpy as np\n"
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Definitions of rms_norm, with eps as an input, of embedding and of split."""
    out, specs = tmp_path_factory.mktemp("set") / "out", default_registry().specs
    wanted = {"rms_norm": "2x3x5,eps1e-05", "embedding": "2x3,V5,D3", "split": "2x7,2+4+1"}
    examples = [
        make_example(specs[op], next(c for c in specs[op].cases if c.id == i), "float32") for op, i in wanted.items()
    ]
    written = write(of_calls((e.spec, e.call, e.inputs) for e in examples), out)
    assert {name.partition("_d")[0] for name in written} >= {"rms_norm"}
    return out


@pytest.fixture
def make(folder: Path) -> Make:
    """Writes a solution of a definition that begins with `op`."""

    def solution(text: str, op: str = "rms_norm", into: bool = False, **more: Any) -> Path:
        (path,) = (folder / "definitions" / op).glob("*.json")
        spec = {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run"}
        fields = {
            "name": "mine",
            "definition": path.stem,
            "author": "me",
            "spec": spec | {"destination_passing_style": into} | more.pop("spec", {}),
            "sources": [{"path": "main.py", "content": HEAD + text}],
        } | more
        (folder / "solutions").mkdir(exist_ok=True)
        (folder / "solutions" / "mine.json").write_text(json.dumps(fields))
        return folder / "solutions" / "mine.json"

    return solution


def judged(path: Path, op: str = "", timeout: float = 30.0, **plan: Any) -> list[Result]:
    """The results on numpy arrays."""
    own, definitions = planned(default_registry(), str(path), "", op)
    made = Plan("numpy", ops=(own,), kernels=(KERNEL,), solution=str(path), definitions=definitions)
    return list(run_isolated(replace(made, **plan), [own], timeout))


def bad(results: list[Result]) -> list[str]:
    return [f"{r.aspect} {r.message}" for r in results if r.outcome in BAD]


def test_a_right_solution_holds(make: Make) -> None:
    """On the calls of its definition and on the kit's that fit; its sources import one another."""
    sources = [
        {
            "path": "main.py",
            "content": "from .inner.norm import norm\n\ndef run(x, weight, eps):\n    return norm(x, weight, eps)\n",
        },
        {"path": "inner/norm.py", "content": f"{HEAD}def norm(x, weight, eps):\n    return {NORM}\n"},
    ]
    results = judged(make("", sources=sources))
    assert not bad(results)
    cases = {r.case for r in results if r.outcome is Outcome.PASS and not r.aspect}
    assert {"sizes 1", "sizes 17", "2x3x5,eps1e-05"} <= cases and any(case.startswith("workload ") for case in cases)
    assert {"again", "threads", "process", "sliced"} <= {r.aspect for r in results if r.outcome is Outcome.PASS}


@pytest.mark.parametrize(
    ("op", "text"),
    [
        ("rms_norm", f"def run(x, weight, eps, y):\n    y[...] = {NORM}\n"),
        ("embedding", "def run(ids, weight, y):\n    y[...] = weight[ids]\n"),
        ("split", "def run(x, a, b, c):\n    a[...], b[...], c[...] = np.split(x, [2, 6], -1)\n"),
    ],
)
def test_outputs_that_are_given_are_written_into(make: Make, op: str, text: str) -> None:
    """Integers come from the workloads; several outputs in their order."""
    results = judged(make(text, op, into=True))
    assert not bad(results) and any(r.outcome is Outcome.PASS for r in results)


@pytest.mark.parametrize(
    ("text", "into", "words"),
    [
        (f"def run(x, weight, eps):\n    return {NORM} * 1.00001\n", False, "ulps"),
        ("def run(x, weight, eps, y):\n    y[..., :2] = 0.5\n", True, "nan at"),
        (
            f"def run(x, weight, eps):\n    return ({NORM}).astype(np.float64)\n",
            False,
            "float64[2, 3, 5] instead of float32",
        ),
        ("def run(x, weight, eps):\n    return None\n", False, "NoneType"),
        ("def run(x, weight):\n    return x\n", False, "called as run(x, weight, eps)"),
        ("def walk(x, weight, eps):\n    return x\n", False, "main.py has no function 'run'"),
        ("import no_such_module\n", False, "No module named 'no_such_module'"),
        (f"KNOWN = {{}}\ndef run(x, weight, eps):\n    return KNOWN.setdefault(x.shape, {NORM})\n", False, "again"),
        (f"def run(x, weight, eps):\n    x[...] = 0 * x + {NORM}\n    return x\n", False, "wrote to its input"),
    ],
    ids=["off", "half", "dtype", "nothing", "signature", "no run", "import", "cached", "in place"],
)
def test_a_wrong_solution_is_told_why(make: Make, text: str, into: bool, words: str) -> None:
    """In the words that kernels are told in."""
    found = bad(judged(make(text, into=into)))
    assert found and any(words in message for message in found), found[:3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time.sleep(3600)", "no answer within 1 s: cut off"),
        ("os.abort()", "the process was ended by SIGABRT"),
        ("os._exit(3)", "the process ended with code 3"),
    ],
)
def test_a_hang_or_a_crash_costs_a_check_and_leaves_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """Sources lie in a folder of the process, which goes with it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = make(f"def run(x, weight, eps):\n    {text}\n")
    (result,) = judged(path, timeout=1.0, case=f"numpy/rms_norm:{KERNEL}[2x3x5,eps1e-05,f32]")
    assert result.outcome is Outcome.FAIL and result.message.startswith(message)
    assert f"--solution {path}" in result.snippet and not list(tmp_path.iterdir())


def test_plain_python_has_the_signature_of_the_op(tmp_path: Path) -> None:
    """All of the kit's cases, views among them; one of another signature is told which it should be."""
    path = tmp_path / "kernel.py"
    path.write_text(
        f"{HEAD}def run(x, weight, *, eps=1e-6, offset=0.0):\n    weight = weight + offset\n    return {NORM}\n"
    )
    results = judged(path, "rms_norm", dtypes=("float32",))
    assert not [text for text in bad(results) if "ulps" in text], bad(results)
    assert {"3x8", "2x5,offset1", "zeros"} <= {r.case for r in results if r.outcome is Outcome.PASS}
    path.write_text("def run(x):\n    return x\n")
    assert "signature (x) does not match rms_norm(x, weight, *, eps" in bad(judged(path, "rms_norm"))[0]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"text": "{"}, InvalidInputError, "mine.json: Invalid JSON"),
        ({"text": "[]"}, InvalidInputError, "mine.json: Input should be an object"),
        ({"text": "{}"}, InvalidInputError, "mine.json: name: Field required"),
        (
            {"definition": "rms_norm_d6_float32"},
            UnknownNameError,
            "unknown definition 'rms_norm_d6_float32'. Did you mean 'rms_norm_d5",
        ),
        ({"spec": {"language": "cuda"}}, UnsupportedError, "spec.language: only python is run here, got 'cuda'"),
        ({"spec": {"entry_point": "main.py"}}, InvalidInputError, "spec.entry_point: String should match"),
        (
            {"spec": {"entry_point": "other.py::run"}},
            InvalidInputError,
            "spec.entry_point: expected a Python file among main.py",
        ),
        (
            {"sources": [{"path": "../main.py", "content": ""}]},
            InvalidInputError,
            "sources: expected paths within a folder",
        ),
        ({"sources": []}, InvalidInputError, "sources: List should have at least 1 item"),
    ],
)
def test_a_file_that_is_no_solution_is_refused(
    make: Make, change: dict[str, Any], error: type[TinyllmError], words: str
) -> None:
    """By the name of the file and the field, before anything of it runs."""
    text = change.pop("text", None)
    path = make("raise SystemExit\n", **change)
    if text is not None:
        path.write_text(text)
    with pytest.raises(error) as told:
        planned(default_registry(), str(path), "", "")
    assert words in str(told.value) and str(told.value).startswith((str(path), str(path.parent.parent)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"op_type": "rmsnorm"}, "op_type: unknown op 'rmsnorm'. Did you mean 'rms_norm'?"),
        ({"inputs": {"hidden": {"shape": ["B0", "D"], "dtype": "float32"}}}, "inputs: rms_norm has no input 'hidden'"),
        ({"inputs": {"x": {"shape": ["B0", "D"], "dtype": "float32"}}}, "inputs: weight is missing"),
        ({"outputs": {}}, "outputs: expected y float32[B0, B1, 5], got none"),
        ({"tags": ["attribute:epsilon=1"]}, "rms_norm has no attribute 'epsilon'"),
        ({"axes": {}}, "expected axes with sizes"),
    ],
)
def test_a_definition_that_is_none_of_an_op_is_refused(
    make: Make, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """With the nearest name where there is one."""
    path = make("")
    name = json.loads(path.read_text())["definition"]
    original = path.parents[1] / "definitions" / "rms_norm" / f"{name}.json"
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / original.name).write_text(json.dumps(json.loads(original.read_text()) | change))
    with pytest.raises(TinyllmError) as told:
        planned(default_registry(), str(path), str(tmp_path), "")
    assert words in str(told.value)


def test_a_workload_that_is_none_is_refused(make: Make, folder: Path, tmp_path: Path) -> None:
    """Token ids past the table are told by the op's own words, before anything runs."""
    path = make("", "embedding")
    name = json.loads(path.read_text())["definition"]
    copytree(folder, tmp_path / "set")
    lines = tmp_path / "set" / "workloads" / "embedding" / f"{name}.jsonl"
    (blob,) = (tmp_path / "set" / "blob" / "workloads" / "embedding" / name).iterdir()
    write_arrays(blob, {"ids": np.full((2, 3), 99, np.int32)})
    with pytest.raises(InvalidInputError, match="embedding: ids: expected"):
        planned(default_registry(), str(path), str(tmp_path / "set"), "")
    lines.write_text("{}\n")
    with pytest.raises(InvalidInputError, match="line 1: workload: Field required"):
        planned(default_registry(), str(path), str(tmp_path / "set"), "")


def test_the_command_asks_for_what_it_needs(cli: Cli, make: Make, tmp_path: Path) -> None:
    """One line and exit code 2, and nothing is run."""
    plain = tmp_path / "kernel.py"
    plain.write_text("raise SystemExit\n")
    for arguments, words in (
        (("--solution", str(plain)), "expected --op, the op that its run computes"),
        (("--solution", str(plain), "--op", "rms_nrm"), "unknown op 'rms_nrm'. Did you mean 'rms_norm'?"),
        (("--solution", str(tmp_path / "none.json")), "cannot be read: No such file"),
        (("--solution", str(make("")), "--op", "silu"), "--op: expected rms_norm, the op of its definition, got silu"),
        (("--solution", str(make("")), "--kernel", "fused"), "leave out --kernel"),
        (("numpy", "--definitions", str(tmp_path)), "--definitions goes with --solution"),
    ):
        ran = cli("check", *arguments)
        assert ran.code in (1, 2) and words in ran.err and ran.err.count("\n") == 1, ran.err


def test_the_command_judges_and_reports(cli: Cli, make: Make) -> None:
    """The report is that of a backend, and a failure's line runs it again."""
    ran = cli("check", "numpy", "--solution", str(make(f"def run(x, weight, eps):\n    return {NORM}\n")), "--json")
    report = json.loads(ran.out)
    assert ran.code == 0 and {r["op"] for r in report["results"]} == {"rms_norm"}
    assert report["plan"]["kernels"] == [KERNEL] and report["plan"]["solution"] == "mine.json"
