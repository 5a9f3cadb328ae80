"""The app under hosts that know nothing of it: its lifespan alone starts, drains and ends the model."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from tests.openai.fakes import Program, make_llm
from tests.server.bodies import CHAT, TEXT, chunks, error
from tests.server.fakes import make_model
from tests.server.test_robustness import until
from tinyllm.errors import InvalidInputError
from tinyllm.server.app import make_app

ROOT = Path(__file__).parents[2]
LONG = TEXT | {"max_tokens": 100, "stream": True, "ignore_eos": True}
Host = Callable[[ASGIApp, socket.socket, threading.Event], None]


def run_uvicorn(app: Any, listening: socket.socket, stop: threading.Event) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))

    async def serve() -> None:
        running = asyncio.create_task(server.serve(sockets=[listening]))
        await asyncio.to_thread(stop.wait)
        server.should_exit = True
        await running

    asyncio.run(serve())


def run_hypercorn(app: Any, listening: socket.socket, stop: threading.Event) -> None:
    config_module = pytest.importorskip("hypercorn.config")
    hypercorn = pytest.importorskip("hypercorn.asyncio")
    config = config_module.Config()
    config.bind, config.loglevel = [f"fd://{listening.detach()}"], "ERROR"

    async def stopped() -> None:
        await asyncio.to_thread(stop.wait)

    asyncio.run(hypercorn.serve(app, config, shutdown_trigger=stopped))


@dataclass
class Hosted:
    """An app under a host, which runs in a thread until `stop` is set."""

    client: httpx.Client
    stop: threading.Event
    thread: threading.Thread

    def stops(self) -> bool:
        """Whether the host ends when it is told to."""
        self.stop.set()
        self.thread.join(20)
        return not self.thread.is_alive()


@contextmanager
def hosted(host: Host, app: ASGIApp) -> Iterator[Hosted]:
    listening, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread = threading.Thread(target=host, args=(app, listening, stop))
    thread.start()
    with httpx.Client(base_url=url, timeout=20) as client:
        live = Hosted(client, stop, thread)
        try:
            yield live
        finally:
            assert live.stops()


@pytest.fixture(params=[run_uvicorn, run_hypercorn])
def host(request: pytest.FixtureRequest) -> Host:
    return request.param  # type: ignore[no-any-return]


def test_a_host_starts_the_model_and_answers_meanwhile(host: Host) -> None:
    load = threading.Event()

    def make() -> Any:
        load.wait(10)
        return make_llm()

    with hosted(host, make_app(make_model(load=make))) as live:
        client = live.client
        assert client.get("/health").status_code == 200
        refused = client.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == client.get("/ready").status_code == 503 and error(refused)["code"] == "loading"
        load.set()
        assert until(lambda: client.get("/ready").status_code == 200)
        reply = client.post("/v1/chat/completions", json=CHAT)
        assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 12
        assert chunks(client.post("/v1/chat/completions", json=CHAT | {"stream": True}))


def test_a_host_that_stops_lets_a_reply_end(host: Host) -> None:
    model = make_model(Program(delay=0.005))
    with hosted(host, make_app(model)) as live, ThreadPoolExecutor(1) as pool:
        assert until(lambda: model.ready)
        running = pool.submit(live.client.post, "/v1/completions", json=LONG)
        assert until(lambda: model.thread.stats().running == 1)
        assert live.stops()
        assert chunks(running.result())[-1]["choices"][0]["finish_reason"] == "length"
        assert not model.thread._thread.is_alive()


def test_a_host_that_stops_while_the_model_is_loaded(host: Host) -> None:
    """Loading cannot be broken off, and nobody waits for it."""
    load = threading.Event()

    def make() -> Any:
        load.wait(60)
        return make_llm()

    with hosted(host, make_app(make_model(load=make))) as live:
        assert live.client.get("/health").status_code == 200
        assert live.stops() and not load.is_set()
        load.set()


def test_the_code_of_the_page(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/serving.md says to write for a host is an app that answers."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "make_app" in block]
    monkeypatch.setattr("tinyllm.load", lambda *arguments, **options: make_llm(), raising=False)
    module: dict[str, Any] = {}
    exec(code, module)
    with hosted(host, module["app"]) as live:
        assert until(lambda: live.client.get("/ready").status_code == 200)
        assert live.client.post("/v1/chat/completions", json=CHAT | {"model": "smollm2"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [({"api_key": " "}, "serve: api-key: expected some text"), ({"cors": ["a.example"]}, "serve: cors: expected an")],
)
def test_what_no_host_may_serve(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_app(make_model(), **options)
