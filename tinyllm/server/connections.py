"""Keeps connections within limits: how many there are, how many a client has, how long the head of a request takes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from typing import Any
from uuid import uuid4

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from tinyllm.openai.errors import ApiError
from tinyllm.server.logs import log
from tinyllm.server.settings import MAX_CONNECTIONS_PER_CLIENT, RECEIVE_TIMEOUT

ACCEPTED_AT_ONCE = 16
"""Connections that the event loop accepts each time that it comes by."""
_KEPT_FREE = 64 + 8 * ACCEPTED_AT_ONCE
"""Descriptors for all that is no connection, and for connections that are accepted while others are on their way out,
which takes the event loop a few rounds."""
_LINGER_SECONDS = 1.0
"""A refused client has so long to read why; a connection that is closed at once may lose what was written to it."""
_LINGERING = 64
_READ_BYTES = 8192
_QUIET_SECONDS = 60.0


class Connections:
    """All connections of a server.

    Args:
        most: how many there may be; None: as the descriptors of the process allow. Past it the one that has been idle
            for longest goes.
        most_per_client: how many an address may have.
        receive_timeout: seconds in which the head of a request has to come.
    """

    def __init__(
        self,
        most: int | None = None,
        most_per_client: int = MAX_CONNECTIONS_PER_CLIENT,
        receive_timeout: float = RECEIVE_TIMEOUT,
    ) -> None:
        self.most = _most_connections() if most is None else most
        self.most_per_client, self.receive_timeout = most_per_client, receive_timeout
        self._open: dict[Connection, str] = {}
        self._idle: dict[Connection, None] = {}  # the oldest first
        self._clients: Counter[str] = Counter()
        self._lingering = 0
        self._told = -_QUIET_SECONDS

    def add(self, connection: Connection, client: str) -> None:
        """Take a new connection, for which an idle one may have to go. Raises `ApiError` where there is no room."""
        if self._clients[client] >= self.most_per_client:
            self._tell("a client has as many connections as it may", client)
            raise ApiError(
                429,
                f"connections: expected at most {self.most_per_client} of one client, got more",
                code="too_many_connections",
                retry_after=1,
            )
        if len(self._open) >= self.most:
            self._tell("there are as many connections as may be", client)
            oldest = next(iter(self._idle), None)
            if oldest is None:
                raise ApiError(
                    503,
                    f"connections: expected at most {self.most}, got more",
                    code="too_many_connections",
                    retry_after=1,
                )
            self.remove(oldest)
            oldest.transport.close()
        self._open[connection] = client
        self._clients[client] += 1
        self._idle[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that ends."""
        client = self._open.pop(connection, None)
        self._idle.pop(connection, None)
        if client is not None:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def note(self, connection: Connection, busy: bool) -> None:
        """A connection answers a request now, or waits for one."""
        if busy:
            self._idle.pop(connection, None)
        elif connection in self._open:
            self._idle.setdefault(connection, None)

    def linger(self, connection: Connection) -> None:
        """Let a refused client read why, unless many others do."""
        if self._lingering >= _LINGERING:
            connection.transport.close()
            return
        self._lingering += 1
        connection.loop.call_later(_LINGER_SECONDS, self._end_lingering, connection)

    def _end_lingering(self, connection: Connection) -> None:
        self._lingering -= 1
        connection.transport.close()

    def out_of_files(self) -> None:
        """The system has no descriptor for one more connection, whatever was reckoned."""
        self._tell("there is no descriptor for another connection", "")

    def _tell(self, event: str, client: str) -> None:
        """Log it, but not again and again."""
        now = time.monotonic()
        if now - self._told >= _QUIET_SECONDS:
            self._told = now
            log.warning(event, extra={"fields": {"client": client, "connections": len(self._open)}})


class Connection(H11Protocol):
    """A connection within limits. By h11, as this bounds the size of a head.

    Args:
        connections: all of the server.
        others: what `H11Protocol` takes.
    """

    def __init__(self, connections: Connections, **others: Any) -> None:
        super().__init__(**others)
        self._limits = connections
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):  # a selector's: each read of many small chunks holds up the event loop
            transport.max_size = _READ_BYTES
        try:
            self._limits.add(self, self.client[0] if self.client else "")
        except ApiError as error:
            self._refuse(error)
            self._limits.linger(self)
            return
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was sent away."""
        self._stop_timer()
        self._limits.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request has come."""
        if not self._refused:
            super().data_received(data)
            self._note(began=True)

    def on_response_complete(self) -> None:
        """A request has its answer; another may have come meanwhile."""
        super().on_response_complete()
        self._note(began=bool(self.conn.trailing_data[0]))

    def _note(self, began: bool) -> None:
        """began: whether there is a part of a request that is not answered yet."""
        busy = self.cycle is not None and not self.cycle.response_complete
        self._limits.note(self, busy)
        if busy:
            self._stop_timer()
        elif began and self._timer is None:
            self._start_timer()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._limits.receive_timeout, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """Cut off a request whose head does not come, or a body that goes on behind its answer."""
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] and not self.transport.is_closing():
            seconds = self._limits.receive_timeout
            self._refuse(ApiError(408, f"head: expected it within {seconds:g} s, got a part of it"))
        self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Write an error without a request that it answers."""
        self._refused = True
        body = json.dumps(error.body()).encode()
        retry = "" if error.retry_after is None else f"Retry-After: {error.retry_after:.0f}\r\n"
        head = (
            f"HTTP/1.1 {error.status} {STATUS_PHRASES[error.status].decode()}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{retry}"
            f"X-Request-Id: req_{uuid4().hex}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)


def _most_connections() -> int:
    """As many connections as there are descriptors for."""
    try:
        import resource
    except ImportError:  # not on Windows, where sockets are no descriptors
        return 10_000
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 100_000
    return max(16, limit - len(os.listdir("/dev/fd")) - _KEPT_FREE)
