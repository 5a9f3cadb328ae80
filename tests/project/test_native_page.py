"""docs/native.md is true: its tables are those of the code, and whoever follows it ships a kernel in C that holds."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalogue.harness import available, registry
from tinyllm.catalogue import CATALOGUE
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import run
from tinyllm.plugins.load import load_plugins
from tinyllm.registry.registry import Registry

pytest.importorskip("tinyllm_native")
from tinyllm_native import SCHEMES
from tinyllm_native.bench import bytes_of, drawn
from tinyllm_native.builder.compiler import c_compiler
from tinyllm_native.builder.levels import LEVELS
from tinyllm_native.packing import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "native.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
SCALES = {"affine", "zero_point", "int8", "fp8", "fp4", "nf4"}
"""Schemes that the table does not list, as their bits depend on their parameters."""


def rows(first: str) -> dict[str, list[str]]:
    """The cells of the table whose header begins so, by the name in the first."""
    table = PAGE.partition(f"\n| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    return {name.strip(" `"): [cell.strip() for cell in rest] for _, name, *rest, _ in (r.split("|") for r in table)}


def test_the_table_of_schemes_is_that_of_the_code() -> None:
    """Bits of a code, columns of a group, and bits per weight, in the file and as it is packed."""
    schemes = registry().plugins.schemes
    assert {*rows("scheme")} | SCALES == {*SCHEMES}
    for name, (bits, group, stored, packed) in rows("scheme").items():
        form, weight = FORMATS[name], drawn(name, 16, 256)
        assert (int(bits), int(group), float(stored)) == (form.bits, form.group, schemes[name].bits_per_weight), name
        assert float(packed) == 8 * bytes_of(weight) / (16 * 256), name


def test_the_table_of_levels_has_them_all() -> None:
    assert {*rows("level")} == {level for levels in LEVELS.values() for level in levels}


def build(project: Path, path: str) -> Path:
    """The wheel that an installer makes of the page's files, with this PATH."""
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    code = "import sys; sys.path.insert(0, '.'); import build_backend; print(build_backend.build_wheel('.'))"
    environment = {"PATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return project / done.stdout.splitlines()[-1]


@pytest.fixture
def plugin() -> Iterator[None]:
    """The page's package is forgotten after the test."""
    yield
    sys.modules.pop("c_silu", None)


@pytest.mark.skipif(c_compiler() is None, reason="no C compiler works here")
@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("compiler", [True, False], ids=["compiler", "no compiler"])
def test_the_package_of_the_page_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: bool) -> None:
    """Built as pip builds it, and installed elsewhere: its kernel does the work, and is right in every dtype on numpy
    and on torch. Without a compiler the package is there and brings none."""
    pytest.importorskip("setuptools")
    wheel = build(tmp_path / "project", "/usr/local/bin:/usr/bin:/bin" if compiler else "/nowhere")
    assert wheel.name.endswith("-none-any.whl") != compiler, wheel.name
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert "c_silu = c_silu" in (tmp_path / "site/c_silu-0.1.dist-info/entry_points.txt").read_text()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    loaded = load_plugins(CATALOGUE)
    assert "c_silu" not in loaded.broken, loaded.broken
    assert any(kernel.id == "*/silu:c" for kernel in loaded.kernels) == compiler
    assert sys.modules["c_silu"].LIBRARY.parent == tmp_path / "site" / "c_silu"
    asked = Registry(loaded)
    for backend in filter(available, ("numpy", "torch") if compiler else ()):
        plan = Plan(backend, ops=("silu",))
        found = [r for r in run(asked, plan, collect(asked, plan)) if r.kernel == "c"]
        assert [(r.id, r.message) for r in found if r.outcome is not Outcome.PASS] == []
        # on torch the kit takes what numpy allocates for the output for numpy's work
        assert backend != "numpy" or {r.how for r in found if not r.aspect} == {"kernel"}
        assert {r.dtype for r in found} >= {"float16", "bfloat16", "float32", "float64"}
