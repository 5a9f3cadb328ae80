"""Connections of clients that take their time, or too many: others are served, and the log stays short."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.openai.fakes import Program
from tests.server.bodies import TEXT, error
from tests.server.fakes import Live, make_model, serving
from tests.server.test_robustness import LONG, raw_post, until
from tinyllm.server.connections import Connections

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def connect(live: Live, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2])), timeout=10)
    connection.sendall(data)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            data += part
    return data


def served(live: Live) -> bool:
    return httpx.post(f"{live.url}/v1/completions", json=TEXT).status_code == 200


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", b""),
        (b"GET /health HT", b"408 Request Timeout"),
        (HEAD, b"408 Request Timeout"),
        (HEAD + b"Content-Length: 100\r\n\r\n{", b"408 Request Timeout"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"408 Request Timeout"),
        (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\nGET /hea", b"404 Not Found"),
    ],
)
def test_what_does_not_come_is_cut_off(data: bytes, told: bytes) -> None:
    """The head of a request, its body, and the head of the next one, also where a byte comes now and then."""
    with serving(connections=Connections(receive_timeout=0.4), receive_timeout=0.4) as live:
        start = time.monotonic()
        connection = connect(live, data)
        answer = b""
        connection.settimeout(0.1)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < start + 8:
                with contextlib.suppress(TimeoutError):
                    part = connection.recv(1 << 16)
                    answer += part
                    if not part:
                        break
                if data:
                    connection.sendall(b"a")
        connection.close()
        assert told in answer and time.monotonic() - start < 8
        if b"408" in told:
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "timeout_error"
        assert served(live)


def test_a_slow_reply_is_not_cut_off() -> None:
    with serving(make_model(Program(delay=0.05)), connections=Connections(receive_timeout=0.2)) as live:
        response = httpx.post(f"{live.url}/v1/completions", json=LONG | {"max_tokens": 20}, timeout=20)
        assert response.json()["usage"]["completion_tokens"] == 20


def test_a_client_has_its_share(caplog: pytest.LogCaptureFixture) -> None:
    with serving(connections=Connections(most_per_client=2)) as live:
        held = [connect(live) for _ in range(2)]
        for _ in range(20):
            response = httpx.get(f"{live.url}/health")
            assert response.status_code == 429 and response.headers["retry-after"]
            assert error(response)["code"] == "too_many_connections"
        held.pop().close()
        assert until(lambda: httpx.get(f"{live.url}/health").status_code == 200)
        held.pop().close()
    assert len([r for r in caplog.records if "connections as it may" in r.getMessage()]) == 1


def test_the_oldest_idle_connection_goes_for_a_new_one() -> None:
    """One that is answered stays."""
    with serving(make_model(Program(delay=0.02)), connections=Connections(most=4)) as live:
        busy = raw_post(live, LONG | {"max_tokens": 50})
        assert until(lambda: live.model.thread.stats().running == 1)
        idle = []
        for _ in range(3):
            idle.append(connect(live))
            time.sleep(0.05)
        assert served(live)
        assert rest(idle[0]) == b""
        assert b"200 OK" in busy.recv(1 << 16)
        for connection in (busy, *idle):
            connection.close()


def test_where_all_are_busy_a_new_one_is_refused() -> None:
    with serving(make_model(Program(delay=0.02)), connections=Connections(most=2)) as live:
        busy = [raw_post(live, LONG | {"stream": True}) for _ in range(2)]
        assert until(lambda: live.model.thread.stats().running == 2)
        response = httpx.get(f"{live.url}/health")
        assert response.status_code == 503 and error(response)["code"] == "too_many_connections"
        for connection in busy:
            connection.close()
        assert until(lambda: served(live)) and live.settled()


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_past_the_limit_of_descriptors_the_log_gets_a_line(
    few_descriptors: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the limit is not what it was when the server started."""
    with serving(connections=Connections(most_per_client=10_000)) as live:
        clients = [socket.socket() for _ in range(200)]
        used = max(client.fileno() for client in clients)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        for client in clients:
            client.connect(("127.0.0.1", int(live.url.rpartition(":")[2])))
        time.sleep(1.5)
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, hard))
        assert until(lambda: served(live))
    lines = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert lines == ["there is no descriptor for another connection"]


def test_bodies_that_are_being_received_share_a_memory() -> None:
    """The largest is refused, so that a small one is taken."""
    with serving(max_body=1 << 20, max_bodies=2 << 20, receive_timeout=20) as live:
        large = [connect(live, HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000) for _ in range(4)]
        assert served(live)
        refused = [connection for connection in large if b"503" in first_bytes(connection)]
        assert 1 <= len(refused) <= 2 and served(live)
        for connection in large:
            connection.close()
        assert live.settled()


def first_bytes(connection: socket.socket) -> bytes:
    connection.settimeout(1)
    with contextlib.suppress(TimeoutError):
        return connection.recv(4096)
    return b""
