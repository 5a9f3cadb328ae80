"""`tinyllm new-backend` writes a backend that holds at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conformance.conftest import Command


@pytest.fixture
def written(command: Command, tmp_path: Path) -> Path:
    """The folder of a new backend `mine`, with the metadata that an installer would write."""
    done = command("new-backend", "mine", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "tinyllm_mine"
    _installed(folder, "tinyllm_mine", "mine")
    return folder


def _installed(folder: Path, module: str, name: str) -> None:
    """What an installer would write."""
    info = folder / f"{module}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[tinyllm]\n{name} = {module}\n")


def test_it_is_green_at_once(command: Command, written: Path) -> None:
    """Every op by reference, softmax by its own kernel."""
    done = command("check", "mine", "--json", path=written)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:]
    assert {r["how"] for r in report["results"] if r["op"] == "softmax" and r.get("kernel")} == {"kernel"}
    assert {r["how"] for r in report["results"] if r["op"] == "linear" and r.get("kernel")} == {"reference"}


def test_its_own_tests_run_the_kit(command: Command, written: Path) -> None:
    """They pass; with the kernel broken they fail and say where."""
    config = ("-c", str(written / "pyproject.toml"), "--rootdir", str(written))
    test = ("-p", "no:cacheprovider", *config, str(written / "tests"), "--tinyllm-op", "softmax")
    done = command(*test, module="pytest", path=written)
    assert done.returncode == 0 and "mine:cpu holds" in done.stdout, done.stdout[-2000:]
    kernel = written / "tinyllm_mine" / "softmax.py"
    kernel.write_text(kernel.read_text().replace("weights / weights", "weights / 2 / weights"))
    done = command(*test, module="pytest", path=written)
    assert done.returncode == 1 and "mine:cpu does not hold" in done.stdout
    assert "mine/softmax:own[5,f32]: fail: error of" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"), [("numpy", "is there already"), ("My-1", "expected lower"), ("class", "expected lower")]
)
def test_wrong_names(command: Command, name: str, words: str) -> None:
    done = command("new-backend", name)
    assert done.returncode == 2 and words in done.stderr


@pytest.mark.parametrize("dtypes", ['{"float32"}', '{"float32", "bfloat16", "float16", "float64"}'])
def test_the_backend_of_the_readme_holds(command: Command, tmp_path: Path, dtypes: str) -> None:
    """With the dtypes that a backend has unless it says otherwise, and with all of them."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = readme.partition("# my_backend.py")[2].partition("```")[0]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30, "its heading promises 30 lines"
    code = code.replace('    name = "mine"\n', f'    name = "mine"\n    dtypes = frozenset({dtypes})\n')
    assert dtypes in code
    (tmp_path / "my_backend.py").write_text("#" + code, encoding="utf-8")
    _installed(tmp_path, "my_backend", "mine")
    done = command("check", "mine", "--op", "softmax", "--tier", "full", "--json", path=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    kernels = [r for r in json.loads(done.stdout)["results"] if r.get("kernel") == "plain" and not r.get("aspect")]
    assert {r["dtype"] for r in kernels} == set(re.findall(r"\w+", dtypes)) and {r["how"] for r in kernels} == {
        "kernel"
    }


def test_a_folder_that_cannot_be_made_is_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("new-backend", "mine", "--folder", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "tinyllm_mine: cannot be made: Not a directory" in done.stderr and done.stderr.count("\n") == 1


def test_nothing_is_overwritten(command: Command, written: Path) -> None:
    before = {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
    done = command("new-backend", "mine", "--folder", str(written.parent))
    assert done.returncode == 2 and "is there already; nothing was written" in done.stderr
    assert before == {path: path.read_bytes() for path in written.rglob("*") if path.is_file()}
