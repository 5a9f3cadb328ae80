"""docs/write-a-backend.md is true: its code, typed in day by day, makes the backend that it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.plugins.conftest import environment
from tinyllm.cli.new_backend.starter import write_backend

PAGE = Path(__file__).parents[2] / "docs" / "write-a-backend.md"
FENCE = re.compile(r"^```(\w+) (file|append)=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code of the page: a whole file, lines that go to a file's end, or a difference."""

    language: str
    mode: str
    file: str
    text: str

    def write(self, folder: Path) -> None:
        """Type it in; a difference must fit in one place."""
        path = folder / self.file
        if self.language == "diff":
            lines = self.text.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            text = path.read_text(encoding="utf-8")
            assert text.count(old) == 1, f"{self.file}: {text.count(old)} places for\n{old}"
            path.write_text(text.replace(old, new), encoding="utf-8")
        else:
            before = path.read_text(encoding="utf-8") if self.mode == "append" else ""
            path.write_text(before + self.text, encoding="utf-8")


@dataclass(frozen=True)
class Day:
    """A section of the page: its code, and the ops that its commands check."""

    blocks: tuple[Block, ...]
    ops: tuple[str, ...]


def _day(section: str) -> Day:
    words = [shlex.split(line) for block in COMMANDS.findall(section) for line in block.splitlines()]
    ops = [
        w[i + 1] for w in words if w[:3] == ["tinyllm", "check", "mine"] for i, word in enumerate(w) if word == "--op"
    ]
    return Day(tuple(Block(*found) for found in FENCE.findall(section)), tuple(ops))


DAYS = [_day(section) for section in PAGE.read_text(encoding="utf-8").split("\n## Day ")[1:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new backend `mine`, with the metadata that an installer would write."""
    write_backend("mine", tmp_path)
    info = tmp_path / "tinyllm_mine" / "tinyllm_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyllm-mine\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[tinyllm]\nmine = tinyllm_mine\n")
    return info.parent


def _check(folder: Path, *options: str) -> list[dict[str, str]]:
    """The results of `tinyllm check mine`, which must hold."""
    command = [sys.executable, "-m", "tinyllm.cli.main", "check", "mine", "--json", *options]
    done = subprocess.run(
        command, env=environment(folder), cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    report = json.loads(done.stdout)
    bad = [(r["id"], r.get("message")) for r in report["results"] if r["outcome"] in ("fail", "undeclared", "xpass")]
    assert done.returncode == 0 and not bad, bad[:5] or done.stderr
    return list(report["results"])


def _own(results: list[dict[str, str]]) -> set[str]:
    """Ops whose kernels did the work themselves."""
    how: dict[str, set[str]] = {}
    for result in results:
        if result.get("kernel"):
            how.setdefault(result["op"], set()).add(result["how"])
    return {op for op, ways in how.items() if ways == {"kernel"}}


def test_there_are_seven_days_with_code_and_a_proof() -> None:
    assert len(DAYS) == 7
    assert all(day.blocks and day.ops for day in DAYS)


def test_the_first_kernel_is_the_one_that_new_backend_writes(folder: Path) -> None:
    (block,) = DAYS[0].blocks
    assert block.text == (folder / block.file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_each_day_its_ops_have_kernels_that_hold(folder: Path) -> None:
    """Its commands, in the smoke tier, on all that was typed in so far."""
    for day in DAYS:
        for block in day.blocks:
            block.write(folder)
        options = (part for op in day.ops for part in ("--op", op))
        assert _own(_check(folder, *options)) == {*day.ops}


@pytest.mark.slow
def test_in_the_end_the_backend_holds(folder: Path) -> None:
    """Every op but the one that is left to the reader, with nothing declared away in float32."""
    for day in DAYS:
        for block in day.blocks:
            block.write(folder)
    results = _check(folder)
    ops = {r["op"] for r in results if r.get("kernel")}
    assert ops - _own(results) == {"gelu"}
    declined = [r["id"] for r in results if r["outcome"] == "unsupported" and r["op"] in _own(results)]
    assert declined == []
