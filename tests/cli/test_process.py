"""What only a process of its own can show: signals, pipes, a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
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


CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}


@cache
def closed(streams: tuple[str, ...], *arguments: str) -> tuple[int, str, str]:
    """Exit code and output of a command that a shell starts without some of its streams."""
    line = shlex.join([*COMMAND, *arguments]) + "".join(f" {CLOSED[name]}" for name in streams)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # pipes would be closed at both ends
        done = subprocess.run(
            ["sh", "-c", line], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60
        )
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return done.returncode, texts[0], texts[1]


EVERY = tuple(CLOSED)
GENERATE = ("generate", "hello", "-n", "5", "--verbose")


@pytest.mark.parametrize(
    ("arguments", "code", "streams"),
    [
        *((GENERATE, 0, streams) for streams in (*((name,) for name in CLOSED), EVERY)),
        *((("generate", "-"), 2, streams) for streams in (("stdin",), EVERY)),
        *((("chat",), 0, streams) for streams in (("stdin",), EVERY)),
        *((("batch", "/no/such/file", "-o", "/no/such/other"), 2, streams) for streams in (("stderr",), EVERY)),
    ],
)
def test_a_stream_that_is_closed_is_no_error(arguments: tuple[str, ...], code: int, streams: tuple[str, ...]) -> None:
    """What goes to the others is what it would be with all of them."""
    wanted = closed((), *arguments)
    got = closed(streams, *arguments)
    assert got[0] == wanted[0] == code, got[2]
    assert "bug" not in got[2] and "Traceback" not in got[2]
    assert len(got[1].splitlines()) == (0 if "stdout" in streams else len(wanted[1].splitlines()))
    assert len(got[2].splitlines()) == (0 if "stderr" in streams else len(wanted[2].splitlines()))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_a_closed_stream_leaves_free_is_no_files_number(number: int) -> None:
    """The next file that is opened would get it, and what is printed would be written into that."""
    code = "import os; from tinyllm.cli.main import main; main(['--version'])"
    code += "; print(os.open('LICENSE', 0), file=open(3, 'w'))"
    line = f"{shlex.join([sys.executable, '-c', code])} 3>&1 {number}>&-"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert int(done.stdout.split()[-1]) > 2


@pytest.mark.parametrize(
    "arguments", [["generate", "hello", "-n", "5", "--verbose"], ["which", "softmax"]], ids=" ".join
)
def test_the_answer_is_there_though_nobody_reads_stderr(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    process = start(*arguments, stderr=theirs)
    os.close(theirs)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, finish(start(*arguments))[0].encode())


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
