"""Runs the server under uvicorn, on a socket that listens before the model is loaded."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.server.logs import log
from tinyllm.server.served_model import ServedModel

_UNREAD_SECONDS = 60
"""After so long without a byte read, the system closes a connection."""
_LAST_SECONDS = 5
"""The time that connections have to close once the app has shut down."""


def open_socket(address: str, port: int) -> socket.socket:
    """A socket that listens. Raises `InvalidInputError` where the address cannot be had."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InvalidInputError(
            f"serve: host: expected an address of this machine, got {address!r}: {error}"
        ) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is not None:  # inherited by every connection
            with suppress(OSError):
                listening.setsockopt(socket.IPPROTO_TCP, option, _UNREAD_SECONDS * 1000)
        listening.bind(place)
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInputError(f"serve: {address}:{port}: expected an address that is free, got: {reason}") from error
    return listening


class Server(uvicorn.Server):
    """uvicorn, which tells the app of its shutdown while the socket still listens, so that new requests are answered
    with 503 while running ones end. It ends by itself where the model cannot be loaded or its engine breaks.

    Args:
        on_ready: called once, when the model is loaded.
    """

    def __init__(self, app: ASGIApp, model: ServedModel, on_ready: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            app,
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At the first signal the server drains; at the second everything ends."""
        self.force_exit = self._signal is not None
        self._signal, self.should_exit = sig, True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Returns whether the server is to shut down."""
        if self._on_ready is not None and self._model.ready:
            self._on_ready()
            self._on_ready = None
        if self._model.thread.error is not None:
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


def run(app: ASGIApp, model: ServedModel, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until a signal comes.

    Raises:
        KeyboardInterrupt: a second signal came.
        TinyllmError: the model could not be loaded, or its engine broke.
    """
    server = Server(app, model, on_ready)
    server.run(sockets=[listening])
    if server.force_exit:
        raise KeyboardInterrupt
    error = model.thread.error
    if error is None:
        return
    if isinstance(error, TinyllmError):
        raise error
    raise TinyllmError(f"serve: the engine ended: {type(error).__name__}: {error}") from error
