"""What Ray Serve's proxy hands each request to: it reads the request, has a replica answer, and another where that one
dies before the client was sent anything."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tinyllm.engine.page_pool import Key
from tinyllm.openai.errors import ApiError
from tinyllm.scale.route.prompt_keys import request_keys
from tinyllm.server.errors import error_response
from tinyllm.server.events import event_bytes
from tinyllm.server.middleware import LimitBody

TRIES = 3
"""Replicas that one request may see die: it may be what they die of."""
_PASSED_ON = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path"),
    *("query_string", "root_path", "headers", "client", "server"),
)


class Front:
    """The deployment that has the address.

    Args:
        replicas: the handle of the replicas.
        max_body, max_bodies, receive_timeout: see `make_app`.
    """

    def __init__(self, replicas: Any, max_body: int, max_bodies: int, receive_timeout: float) -> None:
        self._app = LimitBody(_Forward(replicas), max_body, max_bodies, receive_timeout)

    async def __call__(self, request: Request) -> Response:
        """The response to any request, of which nothing is read yet."""
        return _AppResponse(self._app)


class _AppResponse(Response):
    """What an ASGI app answers."""

    def __init__(self, app: LimitBody) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {name: scope[name] for name in _PASSED_ON if name in scope} | {"state": {"notes": {}, "gone": False}}

        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":  # Ray's proxy has given the request its id, and tells it
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without_id)


class _Forward:
    """An ASGI app that answers by what a replica answers."""

    def __init__(self, replicas: Any) -> None:
        self._answer = replicas.answer.options(stream=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reads = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        body = await Request(scope, receive).body() if reads else b""
        scope = {name: value for name, value in scope.items() if name != "state"}
        keys = await request_keys(scope["path"], body)
        try:
            for _ in range(TRIES):
                if await self._try(scope, body, keys, send):
                    return
            error = ApiError(503, f"{TRIES} replicas died of this request", code="replica_gone")
        except BackPressureError:
            error = ApiError(429, "all replicas are busy, and many requests wait", code="queue_full", retry_after=1)
        except DeploymentUnavailableError:
            error = ApiError(503, "no replica takes requests", code="no_replica", retry_after=1)
        await error_response(error)(scope, receive, send)

    async def _try(self, scope: Scope, body: bytes, keys: list[Key], send: Send) -> bool:
        """Have a replica answer. Returns whether the client has an answer, or its beginning with an error after it."""
        answer, streams = self._answer.remote(scope, body, keys), None
        try:
            async for message in answer:
                if message["type"] == "http.response.start":
                    streams = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
                await send(message)
        except RayActorError:
            if streams is None:
                return False
            if not streams:
                raise
            error = ApiError(502, "the replica went away before the end of the reply", code="replica_gone")
            await send({"type": "http.response.body", "body": event_bytes(error.body())})
        finally:
            answer.cancel()
        return True
