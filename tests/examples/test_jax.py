"""The backend of examples/tinyllm_jax holds, and talks as numpy does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest

from tests.plugins.conftest import environment, of_every_cpu
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.collect import WITHOUT_KERNEL

pytest.importorskip("jax")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, and the metadata that an installer would write."""
    folder = tmp_path_factory.mktemp("jax")
    shutil.copytree(ROOT / "examples/tinyllm_jax/tinyllm_jax", folder / "tinyllm_jax")
    info = folder / "tinyllm_jax-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyllm-jax\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[tinyllm]\njax = tinyllm_jax\n")
    return folder


def run(installed: Path, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "tinyllm.cli.main", *arguments]
    return subprocess.run(
        call, env=environment(installed), cwd=installed, capture_output=True, text=True, check=False, timeout=timeout
    )


def test_it_holds(installed: Path) -> None:
    """The smoke tier: the ops that it has kernels for by these, all others without one, on its arrays.

    Of the schemes three stand for all: its one kernel for them compiles the formula that each brings, at half a second.
    Kernels for every CPU are none of its own.
    """
    schemes = (part for name in ("affine", "int8", "q4_k") for part in ("--scheme", name))
    done = run(installed, "check", "jax", "--json", *schemes)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    how: dict[str, dict[str, set[str]]] = {op: {} for op in CATALOGUE}
    not_its_own = {None, *of_every_cpu()}
    for result in json.loads(done.stdout)["results"]:
        if result.get("kernel") not in not_its_own:
            how[result["op"]].setdefault(result["kernel"], set()).add(result["how"])
    own = {kernel.op for kernel in run_path(str(installed / "tinyllm_jax" / "__init__.py"))["tinyllm_kernels"]()}
    assert own == {op for op, kernels in how.items() if kernels.keys() - {*WITHOUT_KERNEL}}
    assert all(ways == {"kernel"} for op in own for ways in how[op].values())


def test_it_says_what_numpy_says(installed: Path, smollm2_path: Path) -> None:
    """The same greedy reply."""
    texts = []
    for backend in ("jax", "numpy"):
        done = run(installed, "generate", "Hello", "-b", backend, "-n", "8", "-m", str(smollm2_path))
        assert done.returncode == 0, done.stderr[-2000:]
        texts.append(done.stdout)
    assert texts[0] == texts[1] and texts[0].strip()
