"""Runs the server: its socket, and how it stops."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.server.loading import Host
from tinyllm.server.logs import log

_UNREAD_SECONDS = 60
"""After so long without a byte read, the system closes a connection."""
_LAST_SECONDS = 5


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `InvalidInputError` where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InvalidInputError(f"serve: host: expected an address of this machine, got {host!r}: {error}") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is not None:  # inherited by every connection
            with suppress(OSError):
                made.setsockopt(socket.IPPROTO_TCP, option, _UNREAD_SECONDS * 1000)
        made.bind(address)
        made.listen(1024)
    except (OSError, OverflowError) as error:
        made.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInputError(f"serve: {host}:{port}: expected an address that is free, got: {reason}") from error
    return made


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def allowed_hosts(host: str, given: Collection[str]) -> frozenset[str]:
    """The names by which a server at `host` may be asked for, against DNS rebinding; none: any, where other machines
    can reach it.

    Raises:
        InvalidInputError: what was given is no name.
    """
    for name in given:
        if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", name):
            raise InvalidInputError(
                f"serve: allowed-host: expected a name without scheme or port, such as ai.example, got {name!r}"
            )
    if not given and not is_loopback(host):
        return frozenset()
    own = f"[{host}]" if ":" in host else host
    return frozenset(name.lower() for name in ("localhost", "127.0.0.1", "[::1]", own, *given))


def check_origins(given: Collection[str]) -> None:
    """Raises `InvalidInputError` for what no browser sends as an origin: it would never be let in, and nobody would
    know why."""
    for origin in given:
        if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
            raise InvalidInputError(
                f"serve: cors: expected an origin without path, such as https://app.example, or *, got {origin!r}"
            )


class Server(uvicorn.Server):
    """At the first signal new requests are refused while those that run are finished; at the second everything ends.

    Args:
        drain: seconds that running requests have. on_ready: called once, when the model is loaded.
    """

    def __init__(
        self, app: ASGIApp, host: Host, drain: float = 30.0, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        super().__init__(config)
        self._host, self._drain, self._on_ready = host, drain, on_ready
        self._deadline: float | None = None
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if self._deadline is not None:
            self.should_exit = self.force_exit = True
            return
        self._host.draining = True
        self._deadline = time.monotonic() + self._drain
        log.info("draining", extra={"fields": {"signal": signal.Signals(sig).name, "running": self._host.active}})

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if not self._told and self._host.thread.ready:
            self._told = True
            self._on_ready()
        if self._deadline is not None and (not self._host.active or time.monotonic() >= self._deadline):
            self.should_exit = True
        if self._host.thread.error is not None:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests that still run are told, then connections are closed."""
        # a thread of its own that nobody waits for: a model that is still being loaded would hold up the end
        stopper = threading.Thread(target=self._host.thread.stop, daemon=True)
        stopper.start()
        until = time.monotonic() + _LAST_SECONDS
        while stopper.is_alive() and self._host.active and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def serve(app: ASGIApp, host: Host, listening: socket.socket, drain: float, on_ready: Callable[[], None]) -> None:
    """Serve until a signal comes. Raises what kept the model from being loaded or broke the engine; after a second one
    `KeyboardInterrupt`."""
    server = Server(app, host, drain, on_ready)
    host.thread.start()
    server.run(sockets=[listening])
    if server.force_exit:
        raise KeyboardInterrupt
    error = host.thread.error
    if error is None:
        return
    if isinstance(error, TinyllmError):
        raise error
    raise TinyllmError(f"serve: the engine ended: {type(error).__name__}: {error}") from error
