"""docs/write-a-backend.md is true: its code, typed in day by day, makes the backend that it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.plugins.conftest import environment, of_every_cpu
from tinyllm.cli.new_backend.starter import write_backend
from tinyllm.conformance.collect import WITHOUT_KERNEL

PAGE = Path(__file__).parents[2] / "docs" / "write-a-backend.md"
FENCE = re.compile(r"^```(\w*)(?: (file|append)=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMPOSED = {"mha"}
"""Ops that run by other ops: the page says what they are, and has no kernel for them."""
SERVED = {"all_reduce"}
"""Ops that numpy's kernel for every CPU runs: there is nothing of a library in them."""
LEFT = {"gelu", "geglu", "sigmoid", "softcap", "mul", "scale", "layer_norm"}
LEFT |= {"moe_router", "moe_experts", "short_conv", "gated_delta"}
"""Ops that the page leaves to its reader, by name."""
OTHERS = (*of_every_cpu(), *WITHOUT_KERNEL)
"""What runs beside the package's kernels: the numpy backend's for every CPU, and references and compositions."""
SCHEMES = ("affine", "int8", "q4_1", "q4_k")
Results = list[dict[str, str]]


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
class Command:
    """A command line of the page, and what the page shows of its output, if it does."""

    words: tuple[str, ...]
    output: str

    @property
    def ops(self) -> set[str]:
        """The ops that it checks by name."""
        words = self.words if self.words[:3] == ("tinyllm", "check", "mine") else ()
        return {after for word, after in pairwise(words) if word == "--op"}

    @property
    def unsupported(self) -> set[str]:
        """The reasons for which kernels decline calls, as the output lists them."""
        return set(re.findall(r"^  - (.*) \(\d+ checks", self.output, re.MULTILINE))


def parts(section: str) -> Iterator[Block | Command]:
    """The code and the commands of a section in the order in which a reader meets them."""
    fences = [match.groups() for match in FENCE.finditer(section)]
    for (language, mode, file, text), (following, *_, output) in zip(fences, [*fences[1:], ("end", "")], strict=True):
        if mode:
            yield Block(language, mode, file, text)
        elif language == "sh":
            for line in text.splitlines():
                yield Command(tuple(shlex.split(line)), "" if following else output)


DAYS = [[*parts(section)] for section in PAGE.read_text(encoding="utf-8").split("\n## Day ")[1:]]
PARTS = [part for day in DAYS for part in day]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new backend `mine`, with the metadata that an installer would write."""
    write_backend("mine", tmp_path)
    info = tmp_path / "tinyllm_mine" / "tinyllm_mine-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyllm-mine\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[tinyllm]\nmine = tinyllm_mine\n")
    return info.parent


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _check(folder: Path, *ops: str) -> Results:
    """The results of `tinyllm check mine` in the smoke tier, which must hold, with the schemes that the page names."""
    options = [part for op in ops for part in ("--op", op)]
    options += [part for scheme in SCHEMES for part in ("--scheme", scheme)]
    done = _run(folder, "-m", "tinyllm.cli.main", "check", "mine", "--json", *options)
    report = json.loads(done.stdout)
    bad = [(r["id"], r.get("message")) for r in report["results"] if r["outcome"] in ("fail", "undeclared", "xpass")]
    assert done.returncode == 0 and not bad, bad[:5] or done.stderr
    return list(report["results"])


def _own(results: Results) -> set[str]:
    """Ops that have kernels in the package, which did the work themselves."""
    how: dict[str, set[str]] = {}
    for result in results:
        if result.get("kernel") not in (None, *OTHERS):
            how.setdefault(result["op"], set()).add(result["how"])
    return {op for op, ways in how.items() if ways == {"kernel"}}


def _declined(results: Results) -> set[str]:
    """The reasons for which calls were declined."""
    return {r["message"] for r in results if r["outcome"] == "unsupported"}


def test_there_are_seven_days_with_code_and_a_proof() -> None:
    assert len(DAYS) == 7
    for day in DAYS:
        assert any(isinstance(part, Block) for part in day)
        assert any(isinstance(part, Command) and part.ops for part in day)


def test_the_first_kernel_is_the_one_that_new_backend_writes(folder: Path) -> None:
    (block,) = (part for part in DAYS[0] if isinstance(part, Block))
    assert block.text == (folder / block.file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_whoever_follows_the_page_sees_what_it_says(folder: Path) -> None:
    """Each command is run on what was typed in until then: a script prints what the page shows, and the ops that are
    checked hold by kernels of the package, which decline calls where the page says so and for the reasons it gives."""
    for part in PARTS:
        if isinstance(part, Block):
            part.write(folder)
        elif part.words[0] == "python":
            assert _run(folder, *part.words[1:]).stdout == part.output
        elif part.ops:
            results = _check(folder, *part.ops)
            assert _own(results) == part.ops - COMPOSED
            declined = _declined(results)
            assert part.unsupported <= declined and bool(declined) == bool(part.unsupported)


@pytest.mark.slow
def test_in_the_end_the_backend_holds(folder: Path) -> None:
    """Every op but those that are left to the reader, `mha`, which other ops make up, and what is
    served to every CPU, with nothing declined."""
    for part in PARTS:
        if isinstance(part, Block):
            part.write(folder)
    results = _check(folder)
    ops = {r["op"] for r in results if r.get("kernel")}
    assert ops - _own(results) == LEFT | COMPOSED | SERVED
    assert all(f"`{op}`" in PAGE.read_text(encoding="utf-8") for op in LEFT)
    assert _declined([r for r in results if r["op"] in _own(results)]) == set()
