"""What is shipped: the wheel has every package and its data, and the core keeps to its layers."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.project.sources import ROOT, imports
from tinyllm.cli.new_backend.starter import FILES

CORE = list((ROOT / "tinyllm").rglob("*.py"))
BACKENDS = {p.name: list(p.rglob("*.py")) for p in (ROOT / "backends").glob("tinyllm_*") if p.is_dir()}


def _roots(path: Path) -> set[str]:
    """The top-level packages that a file imports, at any depth of it."""
    return {found.module.partition(".")[0] for found in imports(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_imports_no_array_library_and_no_backend(path: Path) -> None:
    """numpy only, and no backend by name."""
    assert not _roots(path) & {"torch", "mlx", "jax", "tests", *BACKENDS}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_imports_no_other(name: str) -> None:
    """Backends know the core, themselves and their own library."""
    library = name.removeprefix("tinyllm_")
    others = {"torch", "mlx", "tests", *BACKENDS} - {name, library}
    for path in BACKENDS[name]:
        assert not _roots(path) & others, path.name


@pytest.mark.slow
def test_the_wheel_works_by_itself(tmp_path: Path) -> None:
    """Built and unpacked elsewhere, it has all packages, data and entry points, and an op runs."""
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("tinyllm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    sources = [p.relative_to(ROOT) for p in CORE] + [
        p.relative_to(ROOT / "backends") for files in BACKENDS.values() for p in files
    ]
    assert {s.as_posix() for s in sources} <= names
    assert {"tinyllm/py.typed", "tinyllm/bench/text.txt", "tinyllm/conformance/reports/page.html.jinja"} <= names
    assert {f"tinyllm/cli/new_backend/template/{source}" for source in FILES} <= names
    run = "print(tinyllm.ops.softmax(np.zeros(4, np.float32), backend='numpy').tolist())"
    code = f"import numpy as np, tinyllm; print(tinyllm.__file__); {run}"
    env = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert str(tmp_path) in ran.stdout and "[0.25, 0.25, 0.25, 0.25]" in ran.stdout
