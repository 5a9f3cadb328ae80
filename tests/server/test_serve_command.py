"""`tinyllm serve` as a process of its own, with a fake model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.server.test_api import TEXT


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.server.fake_serve", "--port", "0", *arguments]
    found = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "FAKE_DELAY": "0.005"} | environment
    )
    try:
        yield found
    finally:
        found.kill()
        found.communicate()


def address(found: subprocess.Popen[str]) -> str:
    """Told on stdout once the model is there."""
    assert found.stdout is not None
    line = found.stdout.readline()
    assert " serves fake on fake:cpu" in line, found.communicate()
    return line.split()[0]


@pytest.mark.slow
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal_and_drains(signal_: signal.Signals) -> None:
    with process("--served-name", "fake", "--drain", "10") as found:
        url = address(found)
        body = TEXT | {"model": "fake", "max_tokens": 200, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=20) as response:
            lines = response.iter_lines()
            next(lines)
            found.send_signal(signal_)
            time.sleep(0.3)
            assert httpx.post(f"{url}/v1/completions", json=TEXT).status_code == 503
            assert list(lines)[-2] == "data: [DONE]"
        out, err = found.communicate(timeout=10)
        assert found.returncode == 0 and out == ""
        events = [json.loads(line)["event"] for line in err.splitlines() if line.startswith("{")]
        assert "draining" in events and events.count("request") == 2


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once() -> None:
    with process("--served-name", "fake", "--drain", "60", FAKE_DELAY="0.05") as found:
        url = address(found)
        with httpx.stream("POST", f"{url}/v1/completions", json=TEXT | {"max_tokens": 300, "stream": True}, timeout=20) as response:
            lines = response.iter_lines()
            next(lines)
            found.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert found.poll() is None
            found.send_signal(signal.SIGTERM)
            found.wait(5)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_it_with_one_line() -> None:
    with process(FAKE_BROKEN="1") as found:
        out, err = found.communicate(timeout=20)
        assert found.returncode == 2 and out == "" and err.splitlines()[-1] == "error: no such model: nowhere"


@pytest.mark.slow
def test_a_signal_while_the_model_is_loaded() -> None:
    with process(FAKE_LOAD="30") as found:
        assert found.stderr is not None and "answers with 503 until" in found.stderr.readline()
        time.sleep(0.5)
        found.send_signal(signal.SIGTERM)
        assert found.wait(5) == 0


@pytest.mark.slow
def test_what_is_said_of_open_doors() -> None:
    with process("--host", "0.0.0.0", "--served-name", "fake") as found:
        address(found)
        found.send_signal(signal.SIGTERM)
        _, err = found.communicate(timeout=10)
        assert err.startswith("warning: serve: 0.0.0.0 can be reached from other machines, and there is no --api-key")
    with process("--host", "0.0.0.0", "--served-name", "fake", TINYLLM_API_KEY="k") as found:
        url = address(found)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        found.send_signal(signal.SIGTERM)
        _, err = found.communicate(timeout=10)
        assert "warning" not in err


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), [
    (("--pages", "3", "--cache-tokens", "5"), "exclude one another"), (("--log-level", "loud"), "log-level: expected one of"),
    (("--host", "no.such.host.invalid"), "host: expected an address"), (("--api-key", " "), "api-key: expected some text"),
])  # fmt: skip
def test_wrong_calls(arguments: tuple[str, ...], message: str) -> None:
    with process(*arguments) as found:
        _, err = found.communicate(timeout=20)
        assert found.returncode == 2 and message in err.splitlines()[-1] and err.splitlines()[-1].startswith("error: ")


@pytest.mark.slow
def test_a_port_that_is_taken() -> None:
    with process("--served-name", "fake") as first:
        port = address(first).rpartition(":")[2]
        with process("--port", port) as second:
            _, err = second.communicate(timeout=20)
            assert second.returncode == 2 and f"127.0.0.1:{port}: expected an address that is free" in err
