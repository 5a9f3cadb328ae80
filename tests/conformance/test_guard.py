"""Kernels that write to memory which is not theirs: told as such, by `--isolate`, with the check that did it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.conftest import Command
from tests.plugins.conftest import write_package
from tinyllm.conformance.guard import damage


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with the package `careless` installed."""
    folder = tmp_path_factory.mktemp("careless")
    write_package("careless", folder)
    return folder


def _failures(command: Command, site: Path, op: str) -> tuple[int, dict[str, str]]:
    """How many checks there were, and the messages of those that failed."""
    done = command("check", "careless", "--op", op, "--dtype", "float32", "--json", "--isolate", path=site)
    results = json.loads(done.stdout)["results"]
    return len(results), {r["id"]: r["message"] for r in results if r["outcome"] == "fail"}


@pytest.mark.parametrize(
    ("op", "case", "words"),
    [
        ("softmax", "3x7", "memory past the end of an array of 84 bytes was written: the process was ended by SIGABRT"),
        (
            "silu",
            "5",
            "memory before the beginning of an array of 20 bytes was written: the process was ended by SIGABRT",
        ),
        ("add", "5", "the process was ended by SIGSEGV"),
    ],
)
def test_a_write_beside_an_array_costs_the_checks_that_do_it(
    command: Command, careless: Path, op: str, case: str, words: str
) -> None:
    """However small the array is, and of all outputs those of that case alone, before others and behind others."""
    count, failed = _failures(command, careless, op)
    assert [check for check in failed if check.endswith("]")] == [f"careless/{op}:own[{case},f32]"]
    assert {*failed.values()} == {words} and len(failed) < count / 3


def test_kernels_that_write_where_they_may_hold(command: Command) -> None:
    """Guard bytes change nothing, and are no memory that is written."""
    done = command("check", "numpy", "--op", "softmax", "--op", "kv_append", "--isolate", "--json")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "    24 bytes originally requested\nFatal Python error: _PyMem_DebugRawFree: bad trailing pad byte\n",
            "memory past the end of an array of 24 bytes was written",
        ),
        ("bad ID: Allocated using API '\\x00'", "memory before the beginning of an array was written"),
        ("corrupted size vs. prev_size", "memory that is not its own was written"),
        ("free(): invalid next size (fast)", "memory that is not its own was written"),
        ("not today", ""),
    ],
)
def test_last_words_say_what_was_written(said: str, told: str) -> None:
    assert damage(said) == told
