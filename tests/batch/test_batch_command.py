"""`tinyllm batch` as it is typed, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.batch.files import CHAT, TEXT, read, request, write
from tests.cli.conftest import Cli, cli, fake
from tests.cli.fake_model import fake_llm
from tinyllm.batch.run import Counts

__all__ = ["cli", "fake"]

ROOT = Path(__file__).parents[2]
MANY = [request(f"request {n}", (CHAT, TEXT)[n % 2], max_tokens=8) for n in range(40)]
IDS = [one["custom_id"] for one in MANY]


def start(folder: Path, *options: str, delay: float = 0.01) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with a slow model."""
    command = [
        sys.executable,
        "-m",
        "tests.cli.fake_model",
        "batch",
        str(folder / "in.jsonl"),
        "-o",
        str(folder / "out.jsonl"),
    ]
    command += ["--model", "fake", "--max-running", "3", *options]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "FAKE_DELAY": str(delay)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    """Until a file has so many lines."""
    end = time.monotonic() + 30
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def texts(path: Path) -> dict[str, str]:
    """Reply of each request."""
    return {e["custom_id"]: json.dumps(e["response"]["body"]["choices"]) for e in read(path)}


def test_killed_and_resumed_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Twice killed outright, each time with half a line left behind; then to the end: the replies of a run that nobody
    disturbed."""
    write(tmp_path / "in.jsonl", *MANY)
    output = tmp_path / "out.jsonl"
    for lines in (5, 19):
        process = start(tmp_path)
        wait_for(output, lines, process)
        process.kill()
        process.communicate(timeout=30)
        assert lines <= len(read(output)) < 40
        output.write_bytes(output.read_bytes() + read_first(output)[: 30 + lines])
    out, err = start(tmp_path, "--ordered", "--json").communicate(timeout=60)
    counts = json.loads(out)
    assert (counts["total"], counts["done"], counts["failed"]) == (40, 40, 0), err
    assert [entry["custom_id"] for entry in read(output)] == IDS and b"requests are done already" in err
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    write(undisturbed / "in.jsonl", *MANY)
    assert start(undisturbed, delay=0.0).wait(60) == 0
    assert texts(output) == texts(undisturbed / "out.jsonl")


def read_first(path: Path) -> bytes:
    return path.read_bytes().splitlines()[0]


def test_ctrl_c_leaves_what_is_done(tmp_path: Path) -> None:
    """Exit code 130, a line that says how far it came, and a state from which it goes on."""
    write(tmp_path / "in.jsonl", *MANY)
    process = start(tmp_path)
    wait_for(tmp_path / "out.jsonl", 4, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    done = len(read(tmp_path / "out.jsonl"))
    assert process.returncode == 130 and 4 <= done < 40
    assert (
        f"{done} of 40 requests are done; the same command goes on from there" in err.decode()
        and b"Traceback" not in err
    )
    assert start(tmp_path, delay=0.0).wait(60) == 0
    assert sorted(e["custom_id"] for e in read(tmp_path / "out.jsonl")) == sorted(IDS)


def test_sizes_come_from_options_then_settings(
    cli: Cli, fake: None, tmp_path: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    """Each size by itself: option, variable, file, default."""
    seen: list[tuple[int, ...]] = []
    clean_environment.setattr("tinyllm.cli.batch_run.answer_all", lambda *a: seen.append(a[-3:]) or Counts(1, 1, 0))
    write(tmp_path / "in.jsonl", request("a"))
    call = ("batch", "in.jsonl", "-o", "out.jsonl")
    assert cli(*call).code == 0
    (tmp_path / "tinyllm.toml").write_text("[batch]\nmax_running = 5\nmax_step_tokens = 6\ncache_tokens = 70")
    clean_environment.setenv("TINYLLM_BATCH_MAX_STEP_TOKENS", "7")
    clean_environment.setenv("TINYLLM_BATCH_CACHE_TOKENS", "80")
    assert cli(*call, "--cache-tokens", "90").code == 0
    assert seen == [(64, 512, 16384), (5, 7, 90)]
    clean_environment.setenv("TINYLLM_BATCH_CACHE_TOKENS", "63")
    ran = cli(*call)
    assert (ran.code, ran.err) == (2, "error: TINYLLM_BATCH_CACHE_TOKENS: expected an integer of at least 64, got 63\n")


def test_failures_have_their_own_file_and_exit_code(cli: Cli, fake: None, tmp_path: Path) -> None:
    """In the order of the requests, both."""
    path = write(
        tmp_path / "in.jsonl",
        request("b"),
        b"{",
        request("a", TEXT),
        request("z", surprise=1),
        request("c") | {"url": "/v1/x"},
    )
    options = ("--model", "fake", "--errors", str(tmp_path / "errors.jsonl"), "--ordered")
    ran = cli("batch", str(path), "-o", str(tmp_path / "out.jsonl"), *options)
    assert ran.code == 1 and "5 requests: 2 answered, 3 failed" in ran.err and ran.out == ""
    assert [e["custom_id"] for e in read(tmp_path / "out.jsonl")] == ["b", "a"]
    assert [e["custom_id"] for e in read(tmp_path / "errors.jsonl")] == [None, "z", "c"]
    before = (tmp_path / "out.jsonl").read_bytes(), (tmp_path / "errors.jsonl").read_bytes()
    again = cli("batch", str(path), "-o", str(tmp_path / "out.jsonl"), *options)
    assert again.code == 1 and "2 answered, 3 failed" in again.err
    assert before == ((tmp_path / "out.jsonl").read_bytes(), (tmp_path / "errors.jsonl").read_bytes())


def test_nothing_left_to_do_loads_no_model(
    cli: Cli, fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "in.jsonl", request("a"))
    arguments = ("batch", str(path), "-o", str(tmp_path / "out.jsonl"), "--model", "fake", "--json")
    assert json.loads(cli(*arguments).out)["tokens"] == 6
    monkeypatch.setattr("tinyllm.cli.session.load_model", lambda *a: pytest.fail("loaded"))
    assert json.loads(cli(*arguments).out) | {"done": 1, "failed": 0, "tokens": 0} == json.loads(cli(*arguments).out)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            [request("a"), request("b"), request("a")],
            [],
            "line 3: custom_id: expected one that no other line has, got 'a', which line 1",
        ),
        ([], [], "expected a request on each line, got an empty file"),
        ([request("a")], ["--errors", "out.jsonl"], "batch: --errors: expected another file than that of --output"),
        ([request("a")], ["-o", "in.jsonl"], "batch: --output: expected another file than that of IN.JSONL"),
        ([request("a")], ["-o", "none/out.jsonl"], "none/out.jsonl: cannot be written: No such file or directory"),
    ],
)
def test_refused_before_a_model_is_loaded(
    cli: Cli, lines: list[Any], options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyllm.cli.session.load_model", lambda *a: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", *lines)
    ran = cli("batch", "in.jsonl", *(["-o", "out.jsonl"] if "-o" not in options else []), *options)
    assert ran.code in (1, 2) and ran.err.count("\n") == 1 and message in ran.err
    assert len(read(tmp_path / "in.jsonl")) == len(lines)


def test_a_model_that_cannot_be_loaded(cli: Cli, tmp_path: Path) -> None:
    """One line, and nothing was written."""
    path = write(tmp_path / "in.jsonl", request("a"))
    ran = cli("batch", str(path), "-o", str(tmp_path / "out.jsonl"), "--model", str(tmp_path / "none.gguf"))
    assert ran.code == 2 and "none.gguf" in ran.err and read(tmp_path / "out.jsonl") == []


def test_requests_name_a_file_as_the_server_does(cli: Cli, fake: None, tmp_path: Path) -> None:
    """By its last part, wherever it lies."""
    (tmp_path / "a.gguf").touch()
    path = write(tmp_path / "in.jsonl", *(request(name, model=name) for name in ("a.gguf", str(tmp_path / "a.gguf"))))
    ran = cli("batch", str(path), "-o", str(tmp_path / "out.jsonl"), "--model", str(tmp_path / "a.gguf"), "--ordered")
    assert [entry["response"]["status_code"] for entry in read(tmp_path / "out.jsonl")] == [200, 404], ran.err


def test_options_of_the_chat_template_hold_where_a_conversation_says_nothing(
    cli: Cli, fake: None, tmp_path: Path
) -> None:
    """And not for texts, which no template writes."""
    own = request("own", CHAT, max_tokens=8, chat_template_kwargs={"mood": "sad"})
    write(tmp_path / "in.jsonl", request("chat", CHAT, max_tokens=8), own, request("text", TEXT, max_tokens=8))
    options = ["--model", "fake", "--chat-template-kwargs", '{"mood": "glad"}']
    assert cli("batch", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--ordered", *options).code == 0
    choices = [entry["response"]["body"]["choices"][0] for entry in read(tmp_path / "out.jsonl")]
    found = [choice["message"]["content"] if "message" in choice else choice["text"] for choice in choices]
    prompts = ["<user>chat;<assistant>glad", "<user>own;<assistant>sad", "text"]
    assert found == [fake_llm().generate(prompt, raw=True, max_tokens=8).text for prompt in prompts]
