"""Runs the command line in a process of its own, beside packages that are installed for the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.conftest import environment, write_package
from tests.plugins.conftest import install as install

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with the package `stubborn` installed."""
    folder = tmp_path_factory.mktemp("site")
    write_package("stubborn", folder)
    return folder


@pytest.fixture
def command(site: Path, tmp_path: Path) -> Command:
    """`command("check", "numpy")` runs `tinyllm check numpy`; `module="pytest"` another module."""

    def run(*arguments: str, module: str = "tinyllm.cli.main", path: Path = site) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", module, *arguments]
        return subprocess.run(
            call, env=environment(path), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )

    return run
