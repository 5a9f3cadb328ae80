"""Routes whose bodies are read and checked beside the event loop, so that a large one holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from tinyllm.models.text.json_text import read_json
from tinyllm.openai.body import Body
from tinyllm.openai.requests import parse_body


class BodyRoute(APIRoute):
    """A route whose argument `body` is made in another thread. FastAPI takes it as it is, as it is what its annotation
    says."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handler, kind = super().get_route_handler(), get_type_hints(self.endpoint).get("body")
        if kind is None:
            return handler

        async def handle(request: Request) -> Response:
            data = await request.body()
            if data:  # FastAPI says of none that it is missing
                body = await asyncio.to_thread(lambda: parse_body(kind, read_json(data)))
                request = _ReadRequest(request, data, body)
            return await handler(request)

        return handle


class _ReadRequest(Request):
    """A request with what its body says."""

    def __init__(self, request: Request, data: bytes, content: Body) -> None:
        super().__init__(request.scope, request.receive)
        self._body, self._content = data, content

    async def json(self) -> Body:
        """The body, checked."""
        return self._content
