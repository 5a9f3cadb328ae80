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


KERNELS = {
    kernel.op for kernel in run_path(str(ROOT / "examples/tinyllm_jax/tinyllm_jax/__init__.py"))["tinyllm_kernels"]()
}
CHECKS = """
import json, sys
from collections import Counter
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.run import run
from tinyllm.registry.registry import default_registry

registry, ops, seen = default_registry(), sys.argv[1].split(","), Counter()
checks = []
for check in collect(registry, Plan("jax", schemes=("affine", "int8", "q4_k"))):
    kind = check.op, check.aspect, check.dtype
    if check.op not in ops:
        most = 2 if kind[1:] == ("", "float32") else 0
    elif check.dtype in ("float32", ""):
        most = {"": 1000, "property": 2}.get(check.aspect, 6)
    else:
        most = 12 if kind[1:] == ("", "bfloat16") else 0
    seen[kind] += 1
    checks += [check] * (seen[kind] <= most)
for result in run(registry, Plan("jax"), checks):
    print(json.dumps(result.to_json()))
"""
"""Runs the checks of ops that have kernels, which are named, and some of all others: a line of JSON for each."""


def run(installed: Path, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, *arguments]
    return subprocess.run(
        call, env=environment(installed), cwd=installed, capture_output=True, text=True, check=False, timeout=timeout
    )


def test_it_holds(installed: Path) -> None:
    """The smoke tier of the ops that it has kernels for. All others run by their formulas, which hold on other arrays:
    a few outputs of each say that they run on these, too.

    XLA compiles for each shape, at about a tenth of a second, so that not everything is looked at: all outputs in
    float32, some in bfloat16, some of each way to look at a call, and three of the schemes, as its one kernel for them
    compiles the formula that each brings. `tinyllm check jax` does all.
    """
    done = run(installed, "-c", CHECKS, ",".join(KERNELS))
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result for result in results if result["outcome"] in BAD] == []
    how: dict[str, dict[str, set[str]]] = {op: {} for op in CATALOGUE}
    not_its_own = {None, *of_every_cpu()}
    for result in results:
        if result.get("kernel") not in not_its_own:
            how[result["op"]].setdefault(result["kernel"], set()).add(result["how"])
    assert {result["op"] for result in results} >= {*CATALOGUE}
    assert {op for op, kernels in how.items() if kernels.keys() - {*WITHOUT_KERNEL}} == KERNELS
    assert all(ways == {"kernel"} for op in KERNELS for ways in how[op].values())


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
