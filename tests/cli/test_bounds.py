"""What the system refuses, and what has no end, becomes one line that a person can read."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_process import start
from tinyllm.cli import session

LONG = "x" * 5000
MEGABYTE = "x" * 10**6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["ops", "--json"], ["generate", "hello"], ["generate", "hello", "--json"]],
    ids=" ".join,
)
def test_a_full_stdout_is_named_as_the_cause(arguments: list[str], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        process = start(*arguments, stdout=full, environment={"PYTHONUNBUFFERED": unbuffered})
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, b"error: stdout: cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["batch", "{requests}", "-o", LONG],
        ["batch", "{requests}", "-o", "out.jsonl", "--errors", LONG],
        ["batch", LONG, "-o", "out.jsonl"],
        ["trace", "hello", "-o", LONG],
        ["trace", "hello", "-o", f"{LONG}/out.jsonl"],
        ["generate", "hello", "-b", "numpy", "-m", LONG],
        ["generate", "hello", "-b", "numpy", "-m", f"/{LONG}"],
        ["new-backend", "mine", "--folder", LONG],
        ["which", MEGABYTE],
        [MEGABYTE],
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)
def test_names_that_the_system_or_nobody_knows(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    requests = tmp_path / "in.jsonl"
    requests.write_text('{"custom_id": "a"}\n')
    result = cli(*(word.format(requests=requests) for word in arguments))
    assert result.code in (1, 2) and result.out == ""
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert len(result.err) < 2000 and "a bug" not in result.err


def test_whatever_is_told_is_a_line_for_people(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        warnings.warn(MEGABYTE, UserWarning, stacklevel=1)
        raise ZeroDivisionError(MEGABYTE)

    monkeypatch.setattr(session, "load_model", fail)
    warning, error = cli("generate", "x").err.splitlines()
    assert warning.startswith("warning: UserWarning in ") and len(warning) < 2000
    assert error.startswith("error: ZeroDivisionError: xxx") and len(error) < 2000


@pytest.mark.parametrize("arguments", [["generate", "-"], ["chat"]], ids=" ".join)
def test_an_input_without_end_is_read_as_far_as_a_prompt_can_go(
    cli: Cli, fake: None, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(session, "MOST_INPUT", 100)
    result = cli(*arguments, stdin=b"x" * 101)
    assert (result.code, result.out) == (2, "")
    assert "of at most 100 bytes, got more" in result.err and result.err.count("\n") == 1
    assert cli(*arguments, stdin=b"x" * 100).code == 0


def test_zeros_without_end_take_no_memory() -> None:
    with open("/dev/zero", "rb") as zeros:
        process = start("generate", "-", stdin=zeros, stdout=subprocess.DEVNULL)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.count(b"\n")) == (2, 1) and b"got more" in err
