"""docs/port-a-model.md is true: its files, typed in, and its commands end as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.catalogue.harness import backends
from tests.plugins.conftest import environment
from tests.project.test_write_a_backend import Block, Command, parts

PAGE = Path(__file__).parents[2] / "docs" / "port-a-model.md"
SECTIONS = [[*parts(section)] for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]]
WRONG = {4}
"""Numbers of the sections whose commands end with code 1."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's plugin is installed."""
    info = tmp_path / "helium-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: helium\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[tinyllm]\nhelium = helium\n")
    return tmp_path


def run(folder: Path, command: Command) -> subprocess.CompletedProcess[str]:
    """A command of the page in a process of its own."""
    program, *words = command.words
    words = words if program == "python" else ["-m", "tinyllm.cli.main", *words]
    return subprocess.run(
        [sys.executable, *words],
        env=environment(folder) | {"TINYLLM_CACHE": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif("torch" not in backends(), reason="needs a second backend")
def test_whoever_follows_the_page_sees_what_it_says(folder: Path) -> None:
    """Each command on what was typed in until then; what the page shows of an output is a line of it, or its
    beginning."""
    pytest.importorskip("transformers")
    for number, section in enumerate(SECTIONS, 1):
        for part in section:
            if isinstance(part, Block):
                part.write(folder)
            else:
                done = run(folder, part)
                assert done.returncode == (number in WRONG) and "error:" not in done.stderr, (part.words, done.stderr)
                shown = part.output.strip()
                assert any(line.startswith(shown) for line in done.stdout.splitlines() or [""]), done.stdout


def test_the_page_uses_the_tools_that_it_is_about() -> None:
    commands = [part.words[:2] for section in SECTIONS for part in section if isinstance(part, Command)]
    assert {("tinyllm", name) for name in ("plan", "graph", "diff", "bisect")} <= {*commands}
