"""A server with a model that needs no numbers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from tests.openai.fakes import TEMPLATE, make_llm
from tinyllm.llm import LLM
from tinyllm.server.app import make_app
from tinyllm.server.connections import Connections
from tinyllm.server.run import Server, open_socket
from tinyllm.server.served_model import EngineSettings, ServedModel


def make_model(
    program: Any = None, template: str | None = TEMPLATE, load: Callable[[], LLM] | None = None, **settings: Any
) -> ServedModel:
    sizes = EngineSettings(**{"pages": 2000, "page_size": 4, "max_running": 16} | settings)
    return ServedModel("fake", load or (lambda: make_llm(program, template)), sizes)


@dataclass
class Live:
    """A server that listens."""

    url: str
    model: ServedModel
    server: Server
    app: ASGIApp

    def settled(self, seconds: float = 10.0) -> bool:
        """Whether nothing runs and no page is held, within a time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            stats = self.model.thread.stats()
            if not (stats.pages_held or stats.running or stats.waiting or self.model.active):
                return True
            time.sleep(0.01)
        return False


@contextmanager
def serving(
    model: ServedModel | None = None,
    load_seconds: float = 10.0,
    connections: Connections | None = None,
    **options: Any,
) -> Iterator[Live]:
    """A server on a real socket, in a thread; everything is stopped at the end.

    Args:
        load_seconds: the time in which the model has to be loaded; 0: it is not waited for.
        connections: what holds connections within limits.
        options: of `make_app`.
    """
    model = model or make_model()
    app = make_app(model, **{"drain": 2.0} | options)
    listening: socket.socket = open_socket("127.0.0.1", 0)
    server = Server(app, model, connections=connections)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        assert not load_seconds or model.thread.wait(load_seconds)
        yield Live(f"http://127.0.0.1:{listening.getsockname()[1]}", model, server, app)
    finally:
        server.should_exit = True
        thread.join(20)
