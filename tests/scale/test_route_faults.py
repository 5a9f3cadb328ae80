"""A router whose replicas go, hang and are not there; and what one is for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.openai.fakes import Program
from tests.scale.routers import LiveRouter, routing
from tests.server.fakes import make_model, serving
from tests.server.test_api import TEXT, error
from tests.server.test_robustness import until
from tests.server.test_serve_command import address, process
from tinyllm.errors import InvalidInputError
from tinyllm.scale.route.replicas import check_urls

LONG = TEXT | {"max_tokens": 200, "stream": True, "ignore_eos": True}
SHORTER = LONG | {"max_tokens": 60}


def healthy(live: LiveRouter) -> list[bool]:
    return [bool(value) for value in live.router.replicas.fleet.healthy]


@contextmanager
def peer(answer: bytes = b"", closes: bool = False) -> Iterator[str]:
    """A server that says it lives, and to all else sends some bytes and then nothing, or closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            while (await reader.readline()).strip():
                pass
            if b"/health" in head or b"/status" in head:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                continue
            writer.write(answer)
            await writer.drain()
            if closes:
                break
            await asyncio.sleep(30)
        writer.close()

    loop, started = asyncio.new_event_loop(), threading.Event()
    found: list[str] = []

    async def start() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        found.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        started.set()

    def run() -> None:
        loop.create_task(start())
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"


def test_a_peer_that_hangs_fails_its_request_and_no_other() -> None:
    with peer() as hanging, serving() as good:
        with routing([hanging, good.url], "round-robin", timeout=1.5) as live, ThreadPoolExecutor(6) as pool:
            began = time.monotonic()
            answers = list(
                pool.map(lambda n: httpx.post(f"{live.url}/v1/completions", json=TEXT, timeout=20), range(6))
            )
            assert time.monotonic() - began < 10
        assert sorted(a.status_code for a in answers) == [200] * 3 + [504] * 3
        assert {error(a)["code"] for a in answers if a.status_code == 504} == {"timeout"}


@pytest.mark.parametrize(("closes", "code"), [(True, "replica_gone"), (False, "timeout")])
def test_a_stream_that_breaks_off_ends_with_an_error(closes: bool, code: str) -> None:
    """It is not begun anew elsewhere, as the client has read a part of it."""
    with peer(STREAM, closes) as bad, routing([bad], timeout=0.5) as live:
        answer = httpx.post(f"{live.url}/v1/completions", json=LONG, timeout=20)
        first, last = answer.text.strip().split("\n\n")
        assert first == "data: 1" and json.loads(last.removeprefix("data: "))["error"]["code"] == code


def test_what_closes_before_the_first_byte_is_asked_elsewhere() -> None:
    with (
        peer(closes=True) as closing,
        serving() as good,
        routing([closing, good.url], "round-robin", health_interval=30) as live,
    ):
        answers = [httpx.post(f"{live.url}/v1/completions", json=TEXT, timeout=20) for _ in range(3)]
        assert [a.status_code for a in answers] == [200] * 3 and healthy(live) == [False, True]
        text = httpx.get(f"{live.url}/metrics").text
    assert f'tinyllm_route_retries_total{{replica="{closing}"}} 1.0' in text


def test_a_whole_reply_that_breaks_off_is_asked_elsewhere() -> None:
    """As none of it was sent on."""
    part = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    with peer(part, closes=True) as closing, serving() as good, routing([closing, good.url], "round-robin") as live:
        answer = httpx.post(f"{live.url}/v1/completions", json=TEXT, timeout=20)
        assert answer.status_code == 200 and answer.json()["choices"]


def test_no_replica_is_an_error_of_openai() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with routing([url]) as live:
        answer = httpx.post(f"{live.url}/v1/completions", json=TEXT)
        assert answer.status_code == 503 and error(answer)["code"] == "no_replica" and answer.headers["retry-after"]
        assert httpx.get(f"{live.url}/ready").status_code == 503 and httpx.get(f"{live.url}/health").status_code == 200


def test_a_client_that_goes_away_ends_its_request_at_the_replica() -> None:
    with serving(make_model(Program(delay=0.02))) as server, routing([server.url]) as live:
        with httpx.stream("POST", f"{live.url}/v1/completions", json=LONG, timeout=20) as response:
            next(response.iter_lines())
            assert server.model.active
        assert until(lambda: not server.model.active and not live.router.active) and server.settled(2)
        assert not live.router.replicas.fleet.in_flight.any()


def test_a_stream_comes_as_it_is_written() -> None:
    with (
        serving(make_model(Program(delay=0.05))) as server,
        routing([server.url]) as live,
        httpx.stream("POST", f"{live.url}/v1/completions", json=LONG, timeout=20) as response,
    ):
        next(response.iter_lines())
        assert server.model.thread.stats().generated_tokens < 50


def test_a_router_that_drains_lets_streams_end_and_breaks_off_the_rest() -> None:
    with serving(make_model(Program(delay=0.02))) as server:
        for drain, ends in ((20.0, True), (0.2, False)):
            with (
                routing([server.url], drain=drain) as live,
                httpx.stream("POST", f"{live.url}/v1/completions", json=SHORTER, timeout=20) as response,
            ):
                lines = response.iter_lines()
                next(lines)
                live.server.should_exit = True
                assert until(lambda live=live: not live.router.ready)
                if ends:
                    assert error(httpx.post(f"{live.url}/v1/completions", json=TEXT))["code"] == "draining"
                last = [line for line in lines if line][-1]
            assert (last == "data: [DONE]") is ends
            assert ends or json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"


def test_a_key_is_asked_for_and_passed_on() -> None:
    with serving(api_key="k") as server, routing([server.url], api_key="k") as live:
        assert httpx.get(f"{live.url}/v1/models").status_code == 401 and httpx.get(f"{live.url}/health").is_success
        assert httpx.get(f"{live.url}/v1/models", headers={"authorization": "Bearer k"}).status_code == 200


def test_warm_finds_more_than_round_robin() -> None:
    """Conversations with eight beginnings; each replica's cache holds five."""

    def reused(policy: str) -> int:
        sizes = {"pages": 60, "page_size": 32}
        with (
            serving(make_model(**sizes)) as first,
            serving(make_model(**sizes)) as second,
            routing([first.url, second.url], policy) as live,
            httpx.Client(base_url=live.url) as http,
        ):
            for number in range(33):
                beginning = f"{number % 8 if number % 2 else number // 2 % 8} begins " * 32
                body = TEXT | {"prompt": f"{beginning[:300]}{number}", "max_tokens": 2}
                assert http.post("/v1/completions", json=body).status_code == 200
            return sum(server.model.thread.stats().reused_tokens for server in (first, second))

    warm, turns = reused("warm"), reused("round-robin")
    assert warm >= 1.8 * turns and warm > 20 * 256


@pytest.mark.slow
def test_a_replica_that_is_killed_loses_no_request_that_had_not_begun() -> None:
    """Of those that had, each ends with an error; all others are answered whole."""
    slow = process("--served-name", "fake", "--max-running", "4", FAKE_DELAY="0.02")
    with slow as doomed, process("--served-name", "fake") as other:
        urls = [address(found) for found in (doomed, other)]
        with routing(urls, "round-robin") as live, ThreadPoolExecutor(24) as pool:

            def ask(number: int) -> tuple[bool, int, str]:
                with httpx.stream("POST", f"{live.url}/v1/completions", json=SHORTER, timeout=60) as response:
                    lines = [line for line in response.iter_lines() if line]
                return response.status_code == 200, len(lines), lines[-1]

            running = [pool.submit(ask, number) for number in range(24)]
            assert until(lambda: live.router.replicas.fleet.in_flight.min() > 4)
            time.sleep(0.5)
            os.kill(doomed.pid, signal.SIGKILL)
            results = [future.result(60) for future in running]
    assert all(good for good, _, _ in results)
    broken = [last for _, _, last in results if last != "data: [DONE]"]
    assert {json.loads(last.removeprefix("data: "))["error"]["code"] for last in broken} == {"replica_gone"}
    assert 1 <= len(broken) <= 4 and all(count >= 2 for _, count, _ in results), "four had begun there at most"


def test_addresses_that_are_none() -> None:
    assert check_urls(["http://a:8000/", "https://b"]) == ["http://a:8000", "https://b"]
    for urls in ([], ["a:8000"], ["ftp://a"], ["http://"], ["http://a:x"], ["http://a b"], ["http://a?q"]):
        with pytest.raises(InvalidInputError, match=r"^route: url: expected (an|at least one) address"):
            check_urls(urls)
    with pytest.raises(InvalidInputError, match="expected each address once, got http://a twice"):
        check_urls(["http://a", "http://a/"])
