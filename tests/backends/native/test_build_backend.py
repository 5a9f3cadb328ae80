"""Installing compiles: wheels have the libraries and a platform, source distributions the sources, and without a
compiler all goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tinyllm_native.builder import compiler, levels

pytest.importorskip("setuptools")
ROOT = Path(__file__).parents[3]
EVERY = list(levels.levels(levels.machine()))
needs_compiler = pytest.mark.skipif(compiler.c_compiler() is None, reason="no C compiler works here")
NO_COMPILER = {"PATH": "/nowhere", "CC": ""}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what is installed, with the C sources that every library has and nothing compiled."""
    folder = tmp_path / "project"
    left_out = shutil.ignore_patterns("__pycache__", "library")
    for name in ("tinyllm", "backends"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for path in (folder / "backends/tinyllm_native/source").iterdir():
        if path.name not in ("cpu.c", "library.c"):
            path.unlink()
    return folder


def hook(project: Path, call: str, **environ: str) -> str:
    """Call a hook as an installer does: in a process of its own, in the project's folder, with nothing of it imported.
    Gives what the hook gives, as text."""
    # zig would be found where it is installed: here it is not
    code = "import importlib.util as u, sys; find = u.find_spec\n"
    code += "u.find_spec = lambda name, *a: None if name == 'ziglang' else find(name, *a)\n"
    code += "from builder import build_backend; assert 'tinyllm' not in sys.modules\n"
    code += f"given = build_backend.{call}; print(); print(given)"
    path = {"PYTHONPATH": str(project / "backends/tinyllm_native")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | path | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@needs_compiler
def test_a_wheel_has_the_libraries_and_a_platform(project: Path, tmp_path: Path) -> None:
    name = hook(project, f"build_wheel({str(tmp_path)!r})")
    assert name.startswith("tinyllm-") and "-py3-none-" in name and not name.endswith("-any.whl")
    files = contents(tmp_path / name)
    native = {file.removeprefix("tinyllm_native/") for file in files if file.startswith("tinyllm_native/")}
    assert {f"library/{level}.so" for level in EVERY} | {"library/built.json", "source/cpu.c"} <= native
    (tag,) = [file for file in files if file.endswith("/WHEEL")]
    assert f"Tag: {'-'.join(name.removesuffix('.whl').split('-')[2:])}" in files[tag].decode()


@needs_compiler
def test_an_option_of_the_user_counts(project: Path, tmp_path: Path) -> None:
    """Whoever says for which platform knows better."""
    settings = {"--build-option": "--plat-name=linux_mine"}
    assert hook(project, f"build_wheel({str(tmp_path)!r}, {settings!r})").endswith("-py3-none-linux_mine.whl")


@needs_compiler
def test_an_editable_install_compiles_beside_the_sources(project: Path, tmp_path: Path) -> None:
    hook(project, f"build_editable({str(tmp_path)!r})")
    library = project / "backends/tinyllm_native/library"
    assert {path.name for path in library.glob("*.so")} == {f"{level}.so" for level in EVERY}


def test_without_a_compiler_the_install_goes_on(project: Path, tmp_path: Path) -> None:
    """A wheel for any platform, with the reason in it, and none of an earlier wheel's libraries."""
    if compiler.c_compiler() is not None:
        hook(project, f"build_wheel({str(tmp_path)!r})")
        shutil.rmtree(project / "backends/tinyllm_native/library")
    name = hook(project, f"build_wheel({str(tmp_path)!r})", **NO_COMPILER)
    assert name.endswith("-py3-none-any.whl")
    files = contents(tmp_path / name)
    assert [file for file in files if file.endswith(".so")] == []
    assert "no C compiler works" in json.loads(files["tinyllm_native/library/built.json"])["reason"]
    hook(project, f"build_editable({str(tmp_path)!r})", **NO_COMPILER)


@needs_compiler
def test_sources_that_cannot_be_compiled_harm_no_install(project: Path, tmp_path: Path) -> None:
    (project / "backends/tinyllm_native/source/wrong.c").write_text("int wrong(void) { return nothing; }\n")
    assert hook(project, f"build_wheel({str(tmp_path)!r})").endswith("-py3-none-any.whl")


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_zig_is_asked_for_only_without_a_compiler(project: Path, kind: str) -> None:
    call = f"get_requires_for_build_{kind}()"
    assert "ziglang" in hook(project, call, **NO_COMPILER)
    if compiler.c_compiler() is not None:
        assert "ziglang" not in hook(project, call)


def test_a_source_distribution_has_the_sources_alone(project: Path, tmp_path: Path) -> None:
    """Though libraries lie beside them, and all that compiles them."""
    library = project / "backends/tinyllm_native/library"
    library.mkdir()
    for name in ("portable.so", "built.json"):
        (library / name).touch()
    name = hook(project, f"build_sdist({str(tmp_path)!r})")
    with tarfile.open(tmp_path / name) as archive:
        names = [Path(member).parts[1:] for member in archive.getnames()]
    native = {"/".join(parts[2:]) for parts in names if parts[:2] == ("backends", "tinyllm_native")}
    assert {"source/cpu.c", "source/library.c", "builder/build_backend.py", "builder/levels.py"} <= native
    assert not {file for file in native if file.startswith("library/")}
