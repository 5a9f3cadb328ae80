"""Runs the server under uvicorn, on a socket that listens before the model is loaded."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
from collections.abc import Callable, Sized
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn
from starlette.types import ASGIApp

from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.server.connections import ACCEPTED_AT_ONCE, Connection, Connections
from tinyllm.server.logs import log

_UNREAD_SECONDS = 60
"""After so long without a byte read, the system closes a connection."""
_LAST_SECONDS = 5
"""The time that connections have to close once the app has shut down."""

_BACKLOG = 1024
"""Connections that the system holds until they are accepted."""


def open_socket(address: str, port: int, command: str = "serve") -> socket.socket:
    """A socket that listens. Raises `InvalidInputError`, which names the command, where the address cannot be had."""
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InvalidInputError(
            f"{command}: host: expected an address of this machine, got {address!r}: {error}"
        ) from error
    family, _, _, _, place = found[0]
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listening = socket.create_server(place, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        where = f"{command}: {address}:{port}"
        raise InvalidInputError(f"{where}: expected an address that is free, got: {reason}") from error
    # inherited by every connection: what is written goes out at once, though what was before is not confirmed yet
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(AttributeError, OSError):  # inherited by every connection; not all systems have it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1000)
    return listening


class Served(Protocol):
    """What a server runs: a model, or a way to others."""

    @property
    def active(self) -> Sized:
        """Requests that are being answered."""

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""

    @property
    def error(self) -> BaseException | None:
        """Why the server has to end; None: it need not."""

    def break_off(self) -> None:
        """Answer 503 to the requests that still run."""


class Server(uvicorn.Server):
    """uvicorn, which tells the app of its shutdown while the socket still listens, so that new requests are answered
    with 503 while running ones end. It ends by itself where the model cannot be loaded or its engine breaks.

    Args:
        on_ready: called once, when the model is loaded.
        connections: what holds connections within limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        model: Served,
        on_ready: Callable[[], None] = lambda: None,
        connections: Connections | None = None,
    ) -> None:
        self._connections = connections or Connections()
        config = uvicorn.Config(
            app,
            http=cast(Any, partial(Connection, self._connections)),
            backlog=ACCEPTED_AT_ONCE,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        super().__init__(config)
        self._model = model
        self._on_ready: Callable[[], None] | None = on_ready
        self._signal: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app and accept connections."""
        asyncio.get_running_loop().set_exception_handler(self._loop_failed)
        await super().startup(sockets)
        for listening in sockets or ():  # many may wait to be accepted, however few are at a time
            listening.listen(_BACKLOG)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._connections.out_of_files()
        else:
            loop.default_exception_handler(context)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At the first signal the server drains; at the second everything ends."""
        self.force_exit = self._signal is not None
        self._signal, self.should_exit = sig, True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Returns whether the server is to shut down."""
        if self._on_ready is not None and self._model.ready:
            self._on_ready()
            self._on_ready = None
        if self._model.error is not None:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut the app down, then close the socket and the connections."""
        if self._signal is not None:
            fields = {"signal": signal.Signals(self._signal).name, "running": len(self._model.active)}
            log.info("draining", extra={"fields": fields})
        draining = asyncio.create_task(self.lifespan.shutdown())
        while not draining.done() and not self.force_exit:
            await asyncio.wait({draining}, timeout=0.1)
        self._model.break_off()
        await super().shutdown(sockets)


def run(
    app: ASGIApp,
    model: Served,
    listening: socket.socket,
    on_ready: Callable[[], None],
    connections: Connections | None = None,
) -> None:
    """Serve until a signal comes.

    Raises:
        KeyboardInterrupt: a second signal came.
        TinyllmError: the model could not be loaded, or its engine broke.
    """

    def ready() -> None:
        gc.collect()
        gc.freeze()  # what stays need not be gone through by each collection, for which everybody has to wait
        on_ready()

    server = Server(app, model, ready, connections)
    server.run(sockets=[listening])
    if server.force_exit:
        raise KeyboardInterrupt
    error = model.error
    if isinstance(error, TinyllmError):
        raise error
    if error is not None:
        raise TinyllmError(f"serve: the engine ended: {type(error).__name__}: {error}") from error
