"""What every request goes through: it gets an id, is counted and logged, and its body is read within limits."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Collection
from typing import Any
from uuid import uuid4

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyllm.openai.errors import ApiError, api_error
from tinyllm.server.errors import error_response
from tinyllm.server.logs import log

QUIET = frozenset(("/health", "/ready", "/status", "/metrics"))
"""Addresses that are asked again and again: where they succeed, it is logged at level debug alone."""


class Observe:
    """Gives each request its id, counts it, and logs a line about it. Outermost, so that it answers errors that nobody
    else caught.

    Args:
        requests: counts answers by path and status.
        paths: the addresses that are counted by name; all others together are `other`.
    """

    def __init__(self, app: ASGIApp, requests: Counter, paths: Collection[str]) -> None:
        self._app, self._requests, self._paths = app, requests, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        client_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = client_id if re.fullmatch(r"[\w.:-]{1,128}", client_id, re.ASCII) else f"req_{uuid4().hex}"
        state: dict[str, Any] = {"request_id": request_id, "started": started, "notes": {}, "gone": False}
        scope = {**scope, "state": {**scope.get("state", {}), **state}}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001  whatever it is, it ends this request and no other
            log.error("unexpected error", extra={"fields": {"request_id": request_id}}, exc_info=error)
            if not status:
                await error_response(api_error(error, request_id))(scope, receive, send_with_id)
        finally:
            if scope["state"]["gone"] or not status:
                status = 499
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._requests.labels(path, status).inc()
            self._log(scope, status, time.monotonic() - started)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        client = scope.get("client")
        fields = {
            "request_id": scope["state"]["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
            "client": client[0] if client else None,
            **scope["state"]["notes"],
        }
        level = logging.DEBUG if scope["path"] in QUIET and status < 400 else logging.INFO
        log.log(level, "request", extra={"fields": fields})


class LimitBody:
    """Reads the whole body before anything else does. It has to be JSON by its type.

    Args:
        most: bytes that it may have.
        most_together: bytes that all may have that are still coming. Past it the largest of them is refused, so that
            many large ones cannot keep out a small one.
        seconds: the time in which it has to come.
    """

    def __init__(self, app: ASGIApp, most: int, most_together: int, seconds: float) -> None:
        self._app, self._most, self._most_together, self._seconds = app, most, max(most, most_together), seconds
        self._coming: dict[asyncio.Timeout, int] = {}  # the bytes of each body so far

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            body = await self._within_limits(scope, receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        if body is None:
            scope["state"]["gone"] = True
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_read() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, receive_read, send)

    async def _within_limits(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None: the client went away."""
        try:
            async with asyncio.timeout(self._seconds) as clock:
                self._coming[clock] = 0
                return await self._read(scope, receive, clock)
        except TimeoutError:
            if clock in self._coming:
                raise ApiError(408, f"body: expected it within {self._seconds:g} s, got a part of it") from None
            told = f"body: expected at most {self._most_together} bytes of all that are being received, got more"
            raise ApiError(503, told, "body", "too_many_bodies", retry_after=1) from None
        finally:
            self._coming.pop(clock, None)

    async def _read(self, scope: Scope, receive: Receive, clock: asyncio.Timeout) -> bytes | None:
        """The body; None: the client went away.

        A body that is too large is read on for a while, as most clients look for an answer only when they have sent
        all of it.
        """
        headers = dict(scope["headers"])
        content_length = headers.get(b"content-length", b"0")
        announced = int(content_length) if content_length.isdigit() else 0
        if announced > 16 * self._most:
            raise self._too_large(announced)
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > 16 * self._most:
                raise self._too_large(size)
            if size <= self._most:
                parts.append(part)
                self._make_room(clock, size)
        if size > self._most:
            raise self._too_large(size)
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        if size and kind != "application/json":  # a page of another origin cannot send this type unasked
            raise ApiError(415, f"content-type: expected application/json, got {kind[:80] or 'none'}")
        return b"".join(parts)

    def _make_room(self, clock: asyncio.Timeout, size: int) -> None:
        """Count what came of a body. Where all together are too large, the time of the largest ends now."""
        if clock in self._coming:
            self._coming[clock] = size
        while sum(self._coming.values()) > self._most_together:
            largest = max(self._coming, key=self._coming.__getitem__)
            del self._coming[largest]
            largest.reschedule(asyncio.get_running_loop().time())

    def _too_large(self, size: int) -> ApiError:
        return ApiError(413, f"body: expected at most {self._most} bytes, got {size}", "body", "request_too_large")
