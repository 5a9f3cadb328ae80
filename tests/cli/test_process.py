"""What only a process of its own can show: signals, pipes, a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "tests.cli.fake_model"]
ROOT = Path(__file__).parents[2]


def start(*arguments: str, delay: float = 0.0, load: float = 0.0, **options: Any) -> subprocess.Popen[bytes]:
    """The command with a fake model, as a process."""
    environment = {**os.environ, "FAKE_DELAY": str(delay), "FAKE_LOAD": str(load), **options.pop("environment", {})}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, env=environment, **streams)


def finish(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """What it said in the end."""
    out, err = process.communicate(timeout=30)
    return out.decode(), err.decode()


def test_interrupt_in_a_reply() -> None:
    process = start("generate", "hello", "-n", "300", delay=0.05)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert process.returncode == 130
    assert first.isalpha() and len(out) < 100
    assert err.strip() == "interrupted"


def test_interrupt_while_loading() -> None:
    process = start("generate", "hello", load=20)
    assert process.stderr is not None
    assert process.stderr.readline() == b"loading\n"
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert (process.returncode, out, err.strip()) == (130, "", "interrupted")


def test_a_reader_that_leaves_is_no_error() -> None:
    process = start("generate", "hello", "-n", "300", delay=0.002)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(3)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


@pytest.mark.parametrize("arguments", [["--version"], ["ops"], ["generate", "hello"]], ids=" ".join)
def test_a_reader_that_never_was(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = start(*arguments, stdout=theirs)
    os.close(theirs)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, b"")


def test_output_through_pipes_is_plain() -> None:
    out, err = finish(start("generate", "hello", "-n", "5"))
    assert "\x1b" not in out + err and "\r" not in out + err


def test_an_encoding_that_lacks_characters() -> None:
    process = start("which", "sdap–", environment={"PYTHONIOENCODING": "ascii"})
    _, err = finish(process)
    assert process.returncode == 2 and err.startswith("error: unknown op")


@contextmanager
def terminal(*arguments: str, **options: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a terminal: the process, and the other end of its terminal."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, **options)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(ours: int, wanted: str, seconds: float = 30) -> str:
    """All that the terminal shows until `wanted` is there."""
    seen = b""
    end = time.monotonic() + seconds
    while wanted.encode() not in seen and time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # Linux says so when the other end has closed
                break
    return seen.decode(errors="replace")


def test_chat_on_a_terminal_interrupt_stops_the_reply_and_not_the_chat() -> None:
    with terminal("chat", "-n", "300", delay=0.03) as (process, ours):
        assert "fake.gguf on fake:cpu" in read_until(ours, "> ")
        os.write(ours, b"hello\n")
        read_until(ours, "\n")
        read_until(ours, "a")
        process.send_signal(signal.SIGINT)
        assert "[stopped]" in read_until(ours, "> ")
        time.sleep(0.3)  # a signal may be missed that comes between the prompt and the wait for a key
        process.send_signal(signal.SIGINT)
        assert "/exit leaves" in read_until(ours, "> ")
        os.write(ours, b"/system be kind\n")
        assert "system: be kind" in read_until(ours, "> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(("variable", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_respected_on_a_terminal(variable: dict[str, str], coloured: bool) -> None:
    with terminal("--help", environment={"TERM": "xterm-256color", **variable}) as (_, ours):
        assert bool(re.search(r"\x1b\[[\d;]*3\d", read_until(ours, "Start with"))) is coloured
