"""What every request goes through: its id and its line in the log, the host it asks for, the key, the body's limits."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import Collection
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinyllm.server.errors import ApiError, api_error
from tinyllm.server.logs import log
from tinyllm.server.metrics import Metrics

PUBLIC = frozenset(("/", "/health", "/ready", "/docs", "/openapi.json"))
"""Addresses that need no key: probes, and pages that a browser opens without one."""
ASSETS = "/docs-assets"
QUIET = frozenset(("/health", "/ready", "/status", "/metrics"))
"""Asked again and again, so that their successes are told at level debug alone."""


async def send_error(error: ApiError, send: Send) -> None:
    """A whole answer."""
    data = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


class Observe:
    """Outermost: gives the id, answers whatever nobody caught with 500, counts, and logs one line."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else f"req_{uuid4().hex}"
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"request_id": request_id, "started": start, "notes": {}}
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:  # noqa: BLE001  whatever it is, it ends this request and no other
            log.error("unexpected error", extra={"fields": {"request_id": request_id}}, exc_info=error)
            if not status:
                await send_error(api_error(error, request_id), watched)
        finally:
            if state.get("gone") or not status:
                status = 499
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, status).inc()
            self._log(scope, state, status, time.monotonic() - start)

    def _log(self, scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
        client = scope.get("client")
        fields = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
            "client": client[0] if client else None,
            **state["notes"],
        }
        level = 10 if scope["path"] in QUIET and status < 400 else 20
        log.log(level, "request", extra={"fields": fields})


class CheckHost:
    """Lets in what names this server. A page of another site whose name was turned to this address (DNS rebinding)
    still names the site."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = b", ".join(value for name, value in scope["headers"] if name == b"host").decode("latin-1")
        if re.sub(r":\d*$", "", given).lower() in self._names:
            await self._app(scope, receive, send)
            return
        wanted = (
            f"host: expected localhost, or a name that the server was given with --allowed-host, got "
            f"{given[:80] or 'none'!r}"
        )
        await send_error(ApiError(403, wanted, code="host_not_allowed"), send)


class Authorize:
    """Asks for the key, where there is one."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app, self._key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._may_pass(scope):
            wanted = "api key: expected the header 'Authorization: Bearer KEY' with the server's key"
            await send_error(ApiError(401, wanted, code="invalid_api_key"), send)
            return
        await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["path"] in PUBLIC or scope["path"].startswith(f"{ASSETS}/"):
            return True
        kind, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)


class LimitBody:
    """Reads the body before anything else does, up to a size and for a time; what it is of has to be JSON."""

    def __init__(self, app: ASGIApp, most: int, seconds: float = 60.0) -> None:
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(scope, receive)
        except ApiError as error:
            await send_error(error, send)
            return
        except TimeoutError:
            await send_error(ApiError(408, f"body: expected it within {self._seconds:g} s, got a part of it"), send)
            return
        if body is None:
            scope.setdefault("state", {})["gone"] = True
            return
        told = False

        async def read_already() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, read_already, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None: the client went away. What is too large is read on for a while, so that the client gets to
        see the answer."""
        headers = dict(scope["headers"])
        stated = headers.get(b"content-length", b"0")
        size = int(stated) if stated.isdigit() else 0
        if size > 16 * self._most:
            raise self._too_large(size)
        parts: list[bytes] = []
        got, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part, more = message.get("body", b""), message.get("more_body", False)
            got += len(part)
            if got > 16 * self._most:
                raise self._too_large(got)
            if got > self._most:
                parts.clear()
            else:
                parts.append(part)
        if got > self._most:
            raise self._too_large(got)
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        if got and kind != "application/json":  # a page of another origin cannot send this type without asking
            raise ApiError(415, f"content-type: expected application/json, got {kind[:80] or 'none'}")
        return b"".join(parts)

    def _too_large(self, got: int) -> ApiError:
        return ApiError(413, f"body: expected at most {self._most} bytes, got {got}", "body", "request_too_large")
