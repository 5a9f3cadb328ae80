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
from tinyllm.conformance.result import BAD

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


OUTPUTS = """
import json, sys
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.run import run
from tinyllm.registry.registry import default_registry

plan = Plan("jax", ops=tuple(sys.argv[1:]), schemes=("affine", "int8", "q4_k"))
checks = [check for check in collect(default_registry(), plan) if not check.aspect]
for result in run(default_registry(), plan, checks):
    print(json.dumps(result.to_json()))
"""
"""Judges the outputs of ops, a line of JSON for each."""


def run(installed: Path, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, *arguments]
    return subprocess.run(
        call, env=environment(installed), cwd=installed, capture_output=True, text=True, check=False, timeout=timeout
    )


def test_it_holds(installed: Path) -> None:
    """The smoke tier: the ops that it has kernels for by these, all others without one, on its arrays. Of those the
    outputs alone: their formulas are looked at from all sides on other arrays, and take long on these.

    Of the schemes three stand for all: its one kernel for them compiles the formula that each brings, at half a second.
    Kernels for every CPU are none of its own.
    """
    schemes = [part for name in ("affine", "int8", "q4_k") for part in ("--scheme", name)]
    own = {kernel.op for kernel in run_path(str(installed / "tinyllm_jax" / "__init__.py"))["tinyllm_kernels"]()}
    named = [part for op in sorted(own) for part in ("--op", op)]
    done = run(installed, "-m", "tinyllm.cli.main", "check", "jax", "--json", *schemes, *named)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    results = json.loads(done.stdout)["results"]
    others = run(installed, "-c", OUTPUTS, *sorted(CATALOGUE.keys() - own))
    assert others.returncode == 0, (others.stdout[-2000:], others.stderr[-2000:])
    results += [json.loads(line) for line in others.stdout.splitlines()]
    assert {result["op"] for result in results} >= {*CATALOGUE}
    assert [result for result in results if result["outcome"] in BAD] == []
    how: dict[str, dict[str, set[str]]] = {op: {} for op in CATALOGUE}
    not_its_own = {None, *of_every_cpu()}
    for result in results:
        if result.get("kernel") not in not_its_own:
            how[result["op"]].setdefault(result["kernel"], set()).add(result["how"])
    assert own == {op for op, kernels in how.items() if kernels.keys() - {*WITHOUT_KERNEL}}
    assert all(ways == {"kernel"} for op in own for ways in how[op].values())


def test_it_says_what_numpy_says(installed: Path, smollm2_path: Path) -> None:
    """The same greedy reply."""
    texts = []
    for backend in ("jax", "numpy"):
        done = run(
            installed, "-m", "tinyllm.cli.main", "generate", "Hello", "-b", backend, "-n", "8", "-m", str(smollm2_path)
        )
        assert done.returncode == 0, done.stderr[-2000:]
        texts.append(done.stdout)
    assert texts[0] == texts[1] and texts[0].strip()
