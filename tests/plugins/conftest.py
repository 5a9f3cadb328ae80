"""Third-party packages, installed for a test as an installer would: files and a `.dist-info` on the path, found by
entry point."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.catalogue.harness import registry
from tinyllm.plugins.kernel import EVERY_CPU
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import read_settings

PACKAGES = Path(__file__).parent / "packages"
ROOT = Path(__file__).parents[2]


def of_every_cpu() -> set[str]:
    """Names of the kernels for every CPU, which run where a package has none of its own."""
    return {kernel.name for kernel in registry().plugins.kernels if kernel.backend == EVERY_CPU}


def write_package(name: str, site: Path) -> None:
    """Put a package of `packages/` and its metadata into a folder, as `pip install --target` does."""
    shutil.copytree(PACKAGES / name, site / name)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tinyllm]\n{name} = {name}\n")


def environment(site: Path) -> dict[str, str]:
    """That of a process which imports this checkout, and what is installed in `site` beside it."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (site, ROOT, ROOT / "backends")))}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """`install("quick_linear", TINYLLM_KERNELS="...")`: a registry of all that is installed, these packages too, with
    these settings."""
    monkeypatch.syspath_prepend(str(tmp_path))
    installed: list[str] = []

    def installing(*names: str, **environ: str) -> Registry:
        for name in names:
            write_package(name, tmp_path)
            installed.append(name)
        importlib.invalidate_caches()
        return Registry(settings=read_settings(tmp_path, environ | {"XDG_CONFIG_HOME": str(tmp_path)}))

    yield installing
    for module in [m for m in sys.modules if m.partition(".")[0] in installed]:
        del sys.modules[module]
