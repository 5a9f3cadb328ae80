"""Clients and kernels that misbehave: the server goes on, and every page comes back."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.openai.fakes import Program, make_llm
from tests.server.bodies import CHAT, TEXT, chunks, error
from tests.server.fakes import Live, make_model, serving
from tinyllm.server.rate_meter import RateMeter

LONG = {"model": "fake", "prompt": "abc", "max_tokens": 2900, "temperature": 0, "ignore_eos": True}


def until(condition: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def raw_post(live: Live, body: dict[str, Any], receive_buffer: int | None = None) -> socket.socket:
    data = json.dumps(body).encode()
    raw = socket.socket()
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.settimeout(20)
    raw.connect(("127.0.0.1", int(live.url.rpartition(":")[2])))
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
        f"{len(data)}\r\n\r\n"
    )
    raw.sendall(head.encode() + data)
    return raw


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_pages(stream: bool) -> None:
    with serving(make_model(Program(delay=0.005))) as live:
        raw = raw_post(live, LONG | {"stream": stream, "n": 2})
        assert until(lambda: live.model.thread.stats().running == 2)
        raw.close()
        start = time.monotonic()
        assert live.settled(2) and live.model.thread.stats().generated_tokens < 2000
        assert time.monotonic() - start < 1.5


def test_aborted_streams_by_the_dozen() -> None:
    with serving(make_model(Program(delay=0.002), max_waiting=500)) as live:

        def abort(number: int) -> None:
            with httpx.stream(
                "POST", f"{live.url}/v1/completions", json=LONG | {"stream": True, "prompt": f"p{number}"}, timeout=20
            ) as r:
                for _, _ in zip(r.iter_lines(), range(number % 7), strict=False):
                    pass

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(abort, range(60)))
        assert live.settled()
        assert httpx.post(f"{live.url}/v1/completions", json=TEXT).status_code == 200


def test_two_hundred_connections(live: Live) -> None:
    """All at once; each gets its own reply, or 429 with the time after which to ask again."""
    with httpx.Client(base_url=live.url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:

        def ask(number: int) -> tuple[int, Any]:
            response = client.post("/v1/completions", json=TEXT | {"prompt": f"number {number % 10}"})
            return response.status_code, response.json()

        with ThreadPoolExecutor(200) as pool:
            found = list(pool.map(ask, range(200)))
    assert {status for status, _ in found} == {200}
    assert len({body["choices"][0]["text"] for _, body in found}) == 10
    assert live.settled()


def test_a_full_queue_says_when_to_come_back() -> None:
    with serving(make_model(Program(delay=0.01), max_running=1, max_waiting=1)) as live:
        held = [raw_post(live, LONG | {"stream": True}) for _ in range(2)]
        assert until(lambda: live.model.thread.stats().running + live.model.thread.stats().waiting == 2)
        for stream in (False, True):
            response = httpx.post(f"{live.url}/v1/completions", json=TEXT | {"stream": stream})
            assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1
            assert error(response)["code"] == "queue_full"
        response = httpx.post(f"{live.url}/v1/completions", json=TEXT | {"n": 3})
        assert response.status_code == 400 and error(response)["message"].startswith("n: expected at most 2")
        for raw in held:
            raw.close()
        assert live.settled()


def test_a_slow_reader_is_dropped_and_holds_up_nobody() -> None:
    with serving(make_model(), max_pending=50) as live:
        slow = raw_post(live, LONG | {"stream": True, "logprobs": 20, "n": 4}, receive_buffer=4096)
        assert until(lambda: live.model.thread.stats().running >= 1)
        fast = httpx.post(f"{live.url}/v1/completions", json=TEXT, timeout=20)
        assert fast.status_code == 200
        assert until(lambda: not live.model.thread.stats().pages_held), "its pages are held while nobody reads"
        assert live.model.thread.stats().generated_tokens < 4 * 2900
        slow.settimeout(2)
        data = b""
        with contextlib.suppress(TimeoutError):
            while part := slow.recv(1 << 20):
                data += part
                if b"slow_reader" in data:
                    break
        assert b"slow_reader" in data and b"[DONE]" not in data
        slow.close()
        assert live.settled()


def test_a_failing_kernel_fails_its_own_request(caplog: pytest.LogCaptureFixture) -> None:
    with serving(make_model(Program(fails_on="!", delay=0.002))) as live, ThreadPoolExecutor(2) as pool:
        other = pool.submit(httpx.post, f"{live.url}/v1/completions", json=LONG | {"max_tokens": 100}, timeout=30)
        for stream in (False, True):
            response = httpx.post(f"{live.url}/v1/completions", json=TEXT | {"prompt": "ab!", "stream": stream})
            assert response.status_code == 500 and "/some/where" not in response.text
            assert response.headers["x-request-id"] in error(response)["message"]
            assert any("no such kernel" in str(r.exc_info) for r in caplog.records if r.name == "tinyllm.server")
        assert other.result().json()["usage"]["completion_tokens"] == 100
        assert live.settled()
        assert httpx.get(f"{live.url}/health").status_code == 200


def test_a_stream_that_breaks_ends_with_an_error() -> None:
    with serving(make_model(Program(says={"ab": "xyz!..."}, fails_on="!", delay=0.02))) as live:
        response = httpx.post(f"{live.url}/v1/completions", json=TEXT | {"prompt": "ab", "stream": True})
        *told, last = [line for line in response.text.split("\n\n") if line]
        assert response.status_code == 200 and len(told) == 4
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert live.settled()


def test_requests_have_a_time() -> None:
    with serving(make_model(Program(delay=0.01)), timeout=0.3) as live:
        response = httpx.post(f"{live.url}/v1/completions", json=LONG)
        assert response.status_code == 504 and error(response)["code"] == "timeout"
        assert live.settled()


def test_a_prompt_beyond_the_cache(live: Live) -> None:
    with serving(make_model(pages=10)) as small:
        response = httpx.post(f"{small.url}/v1/completions", json=TEXT | {"prompt": "x" * 60})
        assert (
            response.status_code == 400
            and "60 tokens" in error(response)["message"]
            and "39" in error(response)["message"]
        )


def test_loading_answers_503_until_it_is_done() -> None:
    go = threading.Event()

    def load() -> Any:
        go.wait(10)
        return make_llm()

    with serving(make_model(load=load), load_seconds=0) as live:
        assert (
            httpx.get(f"{live.url}/health").status_code == 200
            and httpx.get(f"{live.url}/status").json()["ready"] is False
        )
        for response in (httpx.post(f"{live.url}/v1/chat/completions", json=CHAT), httpx.get(f"{live.url}/ready")):
            assert (
                response.status_code == 503 and error(response)["code"] == "loading" and response.headers["retry-after"]
            )
        go.set()
        assert until(lambda: httpx.get(f"{live.url}/ready").status_code == 200)
        assert httpx.post(f"{live.url}/v1/chat/completions", json=CHAT).status_code == 200


def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    with serving(make_model(Program(delay=0.005)), drain=5) as live, ThreadPoolExecutor(1) as pool:
        body = LONG | {"max_tokens": 100, "stream": True}
        running = pool.submit(httpx.post, f"{live.url}/v1/completions", json=body, timeout=20)
        assert until(lambda: live.model.thread.stats().running == 1)
        live.server.handle_exit(15, None)
        assert until(lambda: httpx.get(f"{live.url}/ready").status_code == 503)  # signals are seen ten times a second
        refused = httpx.post(f"{live.url}/v1/completions", json=TEXT)
        assert refused.status_code == 503 and error(refused)["code"] == "draining" and refused.headers["retry-after"]
        assert "".join(c["choices"][0]["text"] for c in chunks(running.result()))
        assert until(lambda: live.server.should_exit, 2)


@pytest.mark.parametrize("delay", [0.02, 2.0])
def test_draining_has_an_end(delay: float) -> None:
    """However long the step takes that the model is in."""
    with serving(make_model(Program(delay=delay)), drain=0.2) as live, ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{live.url}/v1/completions", json=LONG, timeout=20)
        assert until(lambda: live.model.active)
        start = time.monotonic()
        live.server.handle_exit(15, None)
        response = running.result()
        assert response.status_code == 503 and error(response)["code"] == "draining"
        assert time.monotonic() - start < 1.5


def test_an_engine_that_breaks_says_so() -> None:
    """To who waits for a reply, too: asking again would be in vain."""
    with serving(make_model(Program(delay=0.02))) as live, ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{live.url}/v1/completions", json=LONG, timeout=20)
        assert until(lambda: live.model.thread.stats().running == 1)
        live.model.thread._inbox.put(lambda engine: 1 // 0)  # type: ignore[arg-type, return-value]
        response = running.result()
        assert (
            response.status_code == 503
            and error(response)["code"] == "stopped"
            and "started again" in error(response)["message"]
        )


def test_keys() -> None:
    with serving(api_key="secret") as live:
        url = f"{live.url}/v1/completions"
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "secret"},
            {"authorization": "Bearer secre\u00e9"},
        ):
            response = httpx.post(url, json=TEXT, headers={k: v.encode("latin-1") for k, v in headers.items()})  # type: ignore[arg-type]
            assert response.status_code == 401 and error(response)["code"] == "invalid_api_key"
            assert "secret" not in response.text and response.headers["www-authenticate"] == "Bearer"
        assert httpx.post(url, json=TEXT, headers={"authorization": "Bearer secret"}).status_code == 200
        public = ("/health", "/ready", "/", "/docs", "/docs-assets/swagger-ui.css")
        assert [httpx.get(live.url + p).status_code for p in public] == [200] * 5
        assert [httpx.get(live.url + p).status_code for p in ("/status", "/metrics", "/v1/models")] == [401] * 3


def test_hosts() -> None:
    """Names in the header Host, with any port; the error names the option. Without names every host is let in."""
    with serving(
        hosts={"localhost", "127.0.0.1", "[::1]", "ai.example"}, api_key="k", cors=["https://a.example"]
    ) as live:

        def ask(host: str, method: str = "GET") -> httpx.Response:
            return httpx.request(method, f"{live.url}/v1/models", headers={"host": host, "authorization": "Bearer k"})

        for host in (
            "localhost",
            "LocalHost:1234",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8000",
            "ai.example",
            "ai.example:443",
        ):
            assert ask(host).status_code == 200, host
        for host in (
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "localhost:80:80",
            "127.0.0.1@evil.example",
            "::1",
            "",
        ):
            response = ask(host)
            assert response.status_code == 403 and "access-control-allow-origin" not in response.headers, host
            told = error(response)
            assert (
                told["code"] == "host_not_allowed"
                and "--allowed-host" in told["message"]
                and repr(host or "none") in told["message"]
            )
        preflight = {"host": "evil.example", "origin": "https://a.example", "access-control-request-method": "POST"}
        assert httpx.options(f"{live.url}/v1/completions", headers=preflight).status_code == 403
        for twice in (b"Host: localhost\r\nHost: evil.example\r\n", b"Host: evil.example\r\nHost: localhost\r\n"):
            with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2])), timeout=10) as raw:
                raw.sendall(b"GET /health HTTP/1.1\r\n" + twice + b"\r\n")
                assert raw.recv(4096).split()[1] in (b"400", b"403")
    with serving() as live:
        assert httpx.get(f"{live.url}/v1/models", headers={"host": "testserver"}).status_code == 200


def test_the_largest_body() -> None:
    """As many bytes as said, and not one more."""
    content = json.dumps(TEXT).encode()
    with serving(max_body=len(content)) as live:
        for data, status in ((content, 200), (content + b" ", 413)):
            response = httpx.post(
                f"{live.url}/v1/completions", content=data, headers={"content-type": "application/json"}
            )
            assert response.status_code == status
        assert error(response)["message"] == f"body: expected at most {len(content)} bytes, got {len(content) + 1}"


def test_only_named_origins_are_let_in() -> None:
    with serving(cors=["https://a.example"], api_key="k") as live:
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        good = httpx.options(f"{live.url}/v1/completions", headers={"origin": "https://a.example"} | asked)
        bad = httpx.options(f"{live.url}/v1/completions", headers={"origin": "https://b.example"} | asked)
        assert good.headers["access-control-allow-origin"] == "https://a.example" and good.status_code == 200
        assert "access-control-allow-origin" not in bad.headers


def test_each_request_is_one_line_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    from tinyllm.server.logs import configure, log

    handlers, propagate = log.handlers, log.propagate
    try:
        configure("info")
        with serving() as live:
            httpx.post(f"{live.url}/v1/chat/completions", json=CHAT | {"user": "bob"}, headers={"x-request-id": "r-1"})
            httpx.post(f"{live.url}/v1/chat/completions", json=CHAT | {"zzzzzzzz": 1}, headers={"x-request-id": "r-2"})
            httpx.get(f"{live.url}/health")
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    finally:
        log.handlers, log.propagate = handlers, propagate
    good, bad = [line for line in lines if line["event"] == "request"]
    assert (good["request_id"], good["status"], good["completion_tokens"], good["user"]) == ("r-1", 200, 12, "bob")
    assert good["seconds"] >= good["first_token_seconds"] > 0 and good["finish_reasons"] == ["length"]
    assert (bad["request_id"], bad["status"], bad["error"]) == ("r-2", 400, "zzzzzzzz: not supported")
    assert "hello" not in json.dumps(lines), "what people say is nobody's business"


def test_the_rate_forgets() -> None:
    now = 0.0
    meter = RateMeter(window=5, clock=lambda: now)
    for _ in range(20):
        meter.add(2)
        now += 0.25
    assert meter.per_second == pytest.approx(8, abs=0.5)
    now += 6
    assert meter.per_second == 0
