"""Sends each request to a replica, and to another where that one fails before the client was sent anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from tinyllm.engine.page_pool import Key
from tinyllm.openai.errors import ApiError
from tinyllm.scale.policy import Choice
from tinyllm.scale.route.metrics import RouteMetrics
from tinyllm.scale.route.prompt_keys import request_keys
from tinyllm.scale.route.replicas import Replicas
from tinyllm.scale.route.upstream import Answer, Headers, ask, passed_on
from tinyllm.server.compiling import until_gone
from tinyllm.server.errors import error_response
from tinyllm.server.events import event_bytes
from tinyllm.server.logs import log

_BUSY = (429, 503)
"""A replica that answers so has not begun: another may have room."""


class Router:
    """An ASGI app that answers by what a replica answers. A client that goes away ends its request there, too.

    Args:
        replicas: those that are chosen from.
    """

    def __init__(self, replicas: Replicas, metrics: RouteMetrics, client: httpx.AsyncClient) -> None:
        self.replicas, self._metrics, self._client = replicas, metrics, client
        self.active: set[asyncio.Task[None]] = set()
        """Requests that are being answered."""
        self.error: BaseException | None = None
        self._draining = False

    @property
    def ready(self) -> bool:
        """Whether requests are taken: some replica is there, and the router stays."""
        return not self._draining and bool(self.replicas.fleet.healthy.any())

    def check_ready(self) -> None:
        """Raises `ApiError` 503 while no requests are taken, with the reason."""
        if self._draining:
            raise ApiError(503, "the router is shutting down", code="draining", retry_after=5)
        if not self.ready:
            raise ApiError(503, "no replica takes requests", code="no_replica", retry_after=1)

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, give those that run some seconds to end, and break off the rest."""
        self._draining = True
        until = time.monotonic() + seconds
        while self.active and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.break_off()
        if self.active:
            await asyncio.wait(set(self.active), timeout=5)

    def break_off(self) -> None:
        """End the requests that still run: with 503, or an error in their stream."""
        for task in set(self.active):
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        forward = _Forward(self, self._metrics, self._client, scope, send)
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            scope["state"]["gone"] = True
            return
        task = asyncio.create_task(forward.run(body))
        gone = asyncio.create_task(until_gone(receive))
        self.active.add(task)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()  # the client went away: closing the connection ends the request at the replica
                scope["state"]["notes"]["error"] = "the client went away"
                scope["state"]["gone"] = True
                await asyncio.wait({task})
                return
            if not task.cancelled():
                task.result()
                return
        finally:
            self.active.discard(task)
            gone.cancel()
            task.cancel()
        await forward.end(ApiError(503, "the router is shutting down", code="draining", retry_after=5))


class _Forward:
    """One request on its way."""

    def __init__(
        self, router: Router, metrics: RouteMetrics, client: httpx.AsyncClient, scope: Scope, send: Send
    ) -> None:
        self._router, self._replicas, self._metrics, self._client = router, router.replicas, metrics, client
        self._scope, self._send = scope, send
        self._begun = self._streams = False  # whether the client was sent anything, and whether that is a stream

    async def run(self, body: bytes) -> None:
        """Try replicas until one answers."""
        try:
            self._router.check_ready()
            await self._try_all(body, await request_keys(self._scope["path"], body))
        except ApiError as error:
            await self.end(error)

    async def end(self, error: ApiError) -> None:
        """Answer with an error, or end the stream with it, as it is too late for a status."""
        self._scope["state"]["notes"]["error"] = str(error)
        if not self._begun:
            await error_response(error)(self._scope, _nothing, self._send)
        if not self._streams:
            return
        await self._send({"type": "http.response.body", "body": event_bytes(error.body())})

    async def _try_all(self, body: bytes, keys: list[Key]) -> None:
        failed: list[int] = []
        told: Answer | None = None
        fleet, policy = self._replicas.fleet, self._replicas.policy
        while (choice := policy.choose(fleet, keys, failed)) is not None:
            number, url = choice.replica, self._replicas.urls[choice.replica]
            if failed:
                self._metrics.retries.labels(self._replicas.urls[failed[-1]]).inc()
            fleet.in_flight[number] += 1
            try:
                told = await self._try(choice, keys, body)
                if told is None:
                    return
            except httpx.ReadTimeout as error:  # it may be at it still: another would do it twice
                self._metrics.errors.labels(url).inc()
                raise ApiError(504, f"the replica sent nothing within {self._timeout():g} s", code="timeout") from error
            except httpx.HTTPError as error:
                self._metrics.errors.labels(url).inc()
                self._replicas.failed(number, error)
            finally:
                fleet.in_flight[number] -= 1
            failed.append(number)
            log.info("retry", extra={"fields": {"request_id": self._scope["state"]["request_id"], "replica": url}})
        if told is not None:  # no other had room either
            await self._whole(told)
            return
        raise ApiError(503, "no replica takes requests", code="no_replica", retry_after=1)

    async def _try(self, choice: Choice, keys: list[Key], body: bytes) -> Answer | None:
        """Have a replica answer. Returns its answer where it had no room, and None where the client has an answer.
        Raises `httpx.HTTPError` where the replica failed and the client was sent nothing."""
        url = self._replicas.urls[choice.replica]
        self._scope["state"]["notes"] |= {"replica": url, "warm": choice.warm}
        self._replicas.policy.sent(choice.replica, keys)
        self._metrics.sent.labels(url).inc()
        if choice.warm:
            self._metrics.hits.labels(url).inc()
        answer = await ask(self._client, self._request(url, body))
        try:
            if answer.status in _BUSY:
                return answer
            if answer.rest is None:
                await self._whole(answer)
            else:
                await self._stream(choice.replica, answer, answer.rest)
        finally:
            await answer.response.aclose()
        return None

    def _request(self, url: str, body: bytes) -> httpx.Request:
        scope = self._scope
        headers: Headers = [h for h in passed_on(scope["headers"]) if h[0] not in (b"x-request-id", b"content-length")]
        headers.append((b"x-request-id", scope["state"]["request_id"].encode()))
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        try:
            return self._client.build_request(
                scope["method"], url + path + query, headers=headers, content=body or None
            )
        except httpx.InvalidURL as error:
            raise ApiError(400, f"{scope['path']}: expected a path, got something else") from error

    async def _whole(self, answer: Answer) -> None:
        await self._start(answer)
        await self._send({"type": "http.response.body", "body": answer.body})

    async def _stream(self, number: int, answer: Answer, rest: AsyncIterator[bytes]) -> None:
        """Pass a stream on, each piece as it comes."""
        await self._start(answer)
        self._streams = True
        await self._send({"type": "http.response.body", "body": answer.body, "more_body": True})
        try:
            async for chunk in rest:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except httpx.HTTPError as error:
            self._metrics.errors.labels(self._replicas.urls[number]).inc()
            self._replicas.failed(number, error)
            late = isinstance(error, httpx.ReadTimeout)
            why = f"sent nothing within {self._timeout():g} s" if late else "went away before the end of the reply"
            code = "timeout" if late else "replica_gone"
            raise ApiError(504 if late else 502, f"the replica {why}", code=code) from error
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, answer: Answer) -> None:
        self._begun = True
        own = (b"x-request-id", b"date", b"server")  # said by this server itself
        headers = [(name, value) for name, value in answer.headers if name not in own]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})

    def _timeout(self) -> float:
        return self._client.timeout.read or 0.0


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
