"""A router on a real socket, before servers that tests bring."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tinyllm.scale.policy import make_policy
from tinyllm.scale.route.app import RouterApp
from tinyllm.scale.route.router import Router
from tinyllm.server.run import Server, open_socket


@dataclass
class LiveRouter:
    """A router that listens."""

    url: str
    router: Router
    server: Server


@contextmanager
def routing(urls: Sequence[str], policy: str = "warm", **options: Any) -> Iterator[LiveRouter]:
    """A router in a thread, which is stopped at the end. options: of `RouterApp`."""
    app = RouterApp(urls, make_policy(policy), **{"drain": 2.0, "health_interval": 0.05} | options)
    listening = open_socket("127.0.0.1", 0, "route")
    server = Server(app.app, app.router)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield LiveRouter(f"http://127.0.0.1:{listening.getsockname()[1]}", app.router, server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
