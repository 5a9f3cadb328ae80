"""`tinyllm serve` as a process of its own, with a fake model."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from tests.cli.conftest import Cli, cli
from tests.server.bodies import TEXT
from tinyllm.server.app import make_app
from tinyllm.server.connections import Connections
from tinyllm.server.run import run
from tinyllm.server.served_model import EngineSettings, ServedModel
from tinyllm.server.settings import MAX_BODIES, MAX_BODY

__all__ = ["cli"]


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.server.fake_serve", "--port", "0", *arguments]
    found = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FAKE_DELAY": "0.005"} | environment,
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


@pytest.fixture
def starts(cli: Cli, clean_environment: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`starts("--port", "0")`: what the app, the socket and the engine are given, without a server."""
    seen: dict[str, Any] = {}

    def record(model: ServedModel, **options: Any) -> Any:
        seen.update(options, name=model.name, sizes=model.settings)
        return make_app(model, **options)

    def open_socket(host: str, port: int) -> socket.socket:
        seen.update(host=host, port=port)
        return socket.socket()

    def run(app: Any, model: ServedModel, listening: socket.socket, on_ready: Any, connections: Connections) -> None:
        seen.update(most_per_client=connections.most_per_client, head_seconds=connections.receive_timeout)
        listening.close()

    clean_environment.setattr("tinyllm.server.app.make_app", record)
    clean_environment.setattr("tinyllm.server.run.open_socket", open_socket)
    clean_environment.setattr("tinyllm.server.run.run", run)
    clean_environment.setattr("tinyllm.server.logs.configure", lambda level: seen.update(log_level=level))

    def start(*arguments: str) -> dict[str, Any]:
        seen.clear()
        ran = cli("serve", *arguments)
        assert ran.code == 0, ran.err
        return dict(seen)

    return start


def test_defaults_are_those_of_the_parts(starts: Callable[..., dict[str, Any]]) -> None:
    """What the settings say where nobody says anything is what the engine, the app and the logs do."""
    assert starts() == {
        "name": "smollm2",
        "sizes": EngineSettings(),
        "host": "127.0.0.1",
        "port": 8000,
        "api_key": None,
        "cors": [],
        "timeout": None,
        "max_body": MAX_BODY,
        "max_bodies": MAX_BODIES,
        "receive_timeout": 20.0,
        "head_seconds": 20.0,
        "most_per_client": 512,
        "hosts": {"localhost", "127.0.0.1", "[::1]"},
        "drain": 30.0,
        "log_level": "info",
    }


SET = """[serve]
host = "127.0.0.2"
port = 1
api_key = "k"
cors = ["https://a.example"]
allowed_host = ["ai.example"]
served_name = "n"
pages = 2
page_size = 3
max_step_tokens = 4
max_running = 5
max_waiting = 0
batch_invariant = true
max_body = "2MB"
max_bodies = "3MB"
max_connections_per_client = 4
receive_timeout = 5
timeout = 6
drain = 7
log_level = "error"
"""


def test_every_option_is_a_setting(
    starts: Callable[..., dict[str, Any]], clean_environment: pytest.MonkeyPatch
) -> None:
    """The file reaches the parts; the variable goes before it, and the option before both."""
    Path("tinyllm.toml").write_text(SET)
    sizes = EngineSettings(pages=2, page_size=3, max_step_tokens=4, max_running=5, max_waiting=0, one_at_a_time=True)
    own = {"localhost", "127.0.0.1", "[::1]", "127.0.0.2"}
    told = {
        "name": "n",
        "sizes": sizes,
        "host": "127.0.0.2",
        "port": 1,
        "api_key": "k",
        "cors": ["https://a.example"],
        "timeout": 6.0,
        "max_body": 2_000_000,
        "max_bodies": 3_000_000,
        "receive_timeout": 5.0,
        "head_seconds": 5.0,
        "most_per_client": 4,
        "hosts": own | {"ai.example"},
        "drain": 7.0,
        "log_level": "error",
    }
    assert starts() == told
    for name in ("port", "max_body"):
        clean_environment.setenv(f"TINYLLM_SERVE_{name.upper()}", "9")
    clean_environment.setenv("TINYLLM_API_KEY", "v")
    clean_environment.setenv("TINYLLM_SERVE_CORS", "https://b.example,https://c.example")
    told |= {"port": 9, "max_body": 9, "api_key": "v", "cors": ["https://b.example", "https://c.example"]}
    assert starts() == told
    told |= {"port": 0, "max_body": 1 << 10, "cors": ["https://d.example"], "hosts": own | {"b.example"}, "drain": 0.0}
    told |= {"sizes": replace(sizes, pages=None, cache_tokens=8, one_at_a_time=False)}
    assert told == starts(
        "--port",
        "0",
        "--max-body",
        "1KiB",
        "--cors",
        "https://d.example",
        "--allowed-host",
        "B.example",
        "--drain",
        "0",
        "--cache-tokens",
        "8",
        "--no-batch-invariant",
    )


def test_sizes_of_the_cache_exclude_one_another(cli: Cli, starts: Callable[..., dict[str, Any]]) -> None:
    """Said twice by settings it is an error, and an option settles it."""
    Path("tinyllm.toml").write_text("serve.pages = 2\nserve.cache_tokens = 64")
    assert "serve.pages (tinyllm.toml) and serve.cache_tokens (tinyllm.toml) exclude one another" in cli("serve").err
    assert starts("--pages", "3")["sizes"].pages == 3
    assert starts("--cache-tokens", "5")["sizes"] == EngineSettings(cache_tokens=5)


def test_beyond_loopback_any_host_is_let_in(starts: Callable[..., dict[str, Any]]) -> None:
    """Unless names are given, to which those of this machine are added."""
    assert starts("--host", "0.0.0.0")["hosts"] == set()
    assert starts("--host", "::1")["hosts"] == starts("--host", "localhost")["hosts"] == starts()["hosts"]
    assert starts("--host", "0.0.0.0", "--allowed-host", "a.example")["hosts"] >= {"a.example", "localhost"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pages", "3", "--cache-tokens", "5"), "--pages and --cache-tokens exclude one another"),
        (("--log-level", "loud"), "serve: log-level: expected one of"),
        (("--api-key", " "), "serve: api-key: expected some text"),
        (("--max-body", "big"), "serve: max-body: expected bytes, such as 4000000, 4MB or 4MiB, got 'big'"),
        (("--max-body", "0"), "serve: max-body: expected a number of bytes of at least 1, got 0"),
        *(
            (
                ("--cors", origin),
                f"serve: cors: expected an origin without path, such as https://app.example, or *, got {origin!r}",
            )
            for origin in ("app.example", "https://app.example/", "https://a.example,https://b.example/x", "")
        ),
        (("--drain", "nan"), "--drain"),
        (("--port", "65536"), "--port"),
        *(
            (
                ("--allowed-host", name),
                f"serve: allowed-host: expected a name without scheme or port, such as ai.example, got {name!r}",
            )
            for name in ("http://a.example", "a.example:80", "*", "::1")
        ),
    ],
)
def test_wrong_options(
    cli: Cli, starts: Callable[..., dict[str, Any]], arguments: tuple[str, ...], message: str
) -> None:
    ran = cli("serve", *arguments)
    assert ran.code == 2 and message in ran.err and ran.err.count("\n") == 1 and ran.err.startswith("error: ")


def test_origins_that_browsers_send(starts: Callable[..., dict[str, Any]]) -> None:
    for origin in ("https://app.example", "http://localhost:3000", "http://[::1]:80", "chrome-extension://abc", "*"):
        assert starts("--cors", origin)["cors"] == [origin]


def test_a_path_is_served_under_its_last_part(starts: Callable[..., dict[str, Any]]) -> None:
    Path("models").mkdir()
    Path("models/a.gguf").touch()
    assert starts("-m", "models/a.gguf")["name"] == "a.gguf" and starts("-m", "models/")["name"] == "models"
    assert starts("-m", "org/name")["name"] == "org/name"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "library", "extra"),
    [
        ("serve", "fastapi", "serve"),
        ("serve", "prometheus_client", "serve"),
        ("serve", "uvicorn", "serve"),
        ("bench serve", "httpx", "bench"),
    ],
)
def test_a_missing_library_is_told_with_its_extra(command: str, library: str, extra: str) -> None:
    """In a process of its own, as modules that were imported already would hide it."""
    code = (
        f"import sys; sys.modules[{library!r}] = None; from tinyllm.cli.main import main; "
        f"sys.exit(main({command.split()}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert ran.stderr.startswith(f"error: {command}: {library}")
    assert ran.stderr.endswith(f" is not installed; pip install 'tinyllm[{extra}]'\n")


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
        with httpx.stream(
            "POST", f"{url}/v1/completions", json=TEXT | {"max_tokens": 300, "stream": True}, timeout=20
        ) as response:
            lines = response.iter_lines()
            next(lines)
            found.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert found.poll() is None
            found.send_signal(signal.SIGTERM)
            _, err = found.communicate(timeout=5)
        assert found.returncode == 130 and "Traceback" not in err


@pytest.mark.slow
def test_a_second_signal_waits_for_no_step() -> None:
    """However long the step takes that the model is in."""
    with process("--served-name", "fake", "--drain", "60", FAKE_DELAY="60") as found:
        host, _, port = address(found).removeprefix("http://").rpartition(":")
        body = json.dumps(TEXT).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.5)
            for _ in range(2):
                found.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            _, err = found.communicate(timeout=20)
        assert found.returncode == 130 and "Traceback" not in err, err


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
def test_an_address_that_is_not_ours() -> None:
    with process("--host", "no.such.host.invalid") as found:
        _, err = found.communicate(timeout=20)
        assert found.returncode == 2 and err.splitlines()[-1].startswith("error: serve: host: expected an address")


@pytest.mark.slow
def test_a_page_whose_name_was_turned_to_this_address_is_refused() -> None:
    with process("--served-name", "fake", TINYLLM_SERVE_ALLOWED_HOST="ai.example") as found:
        url = address(found)
        for host, status in {"evil.example": 403, "ai.example": 200, "localhost": 200}.items():
            assert httpx.get(f"{url}/v1/models", headers={"host": host}).status_code == status


@pytest.mark.slow
def test_a_port_that_is_taken() -> None:
    with process("--served-name", "fake") as first:
        port = address(first).rpartition(":")[2]
        with process("--port", port) as second:
            _, err = second.communicate(timeout=20)
            assert second.returncode == 2 and f"127.0.0.1:{port}: expected an address that is free" in err


def test_collections_pass_over_what_a_server_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full one would hold up everybody, and a request may bring one about."""

    class Ready:
        force_exit = False

        def __init__(self, app: Any, model: Any, on_ready: Callable[[], None], connections: Any) -> None:
            self.on_ready = on_ready

        def run(self, sockets: list[socket.socket]) -> None:
            self.on_ready()

    monkeypatch.setattr("tinyllm.server.run.Server", Ready)
    frozen: list[int] = []
    model: Any = SimpleNamespace(error=None)
    try:
        with socket.socket() as listening:
            run(cast(Any, None), model, listening, lambda: frozen.append(gc.get_freeze_count()))
    finally:
        gc.unfreeze()
    assert frozen and frozen[0] > 1000
