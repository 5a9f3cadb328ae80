"""The router as an ASGI app, which any host of such apps runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress

import httpx
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tinyllm.errors import InvalidInputError
from tinyllm.openai.errors import ApiError, api_error
from tinyllm.scale.policy import Policy
from tinyllm.scale.route.metrics import RouteMetrics
from tinyllm.scale.route.replicas import Replicas, check_urls
from tinyllm.scale.route.router import Router
from tinyllm.server.access import CheckHost, CheckKey
from tinyllm.server.errors import error_response
from tinyllm.server.middleware import LimitBody, Observe
from tinyllm.server.settings import MAX_BODIES, MAX_BODY, RECEIVE_TIMEOUT

_PASSED_ON = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize")
_OWN = ("/health", "/ready", "/status", "/metrics")


class RouterApp:
    """The router with all that stands around it.

    It looks at its replicas at its startup, and answers 503 where none is there. At its shutdown it refuses new
    requests with 503 and lets running ones end.

    Args:
        urls: addresses of replicas, which all serve the same models.
        policy: chooses among them.
        api_key: what clients have to show, and what replicas are shown when they are looked at; None: nothing. A
            client's key is passed on, so that router and replicas have one.
        hosts: names that the Host header may have; none: any.
        connect_timeout, timeout: seconds in which a replica has to take a connection, and to send something.
        health_interval, health_timeout: seconds between two looks at a replica, and those that a look has.
        max_body, max_bodies, receive_timeout, drain: see `make_app` of the server.

    Raises:
        InvalidInputError: no address, what is none, or a blank key.
    """

    def __init__(
        self,
        urls: Sequence[str],
        policy: Policy,
        *,
        api_key: str | None = None,
        hosts: Collection[str] = (),
        connect_timeout: float = 2.0,
        timeout: float = 600.0,
        health_interval: float = 1.0,
        health_timeout: float = 5.0,
        max_body: int = MAX_BODY,
        max_bodies: int = MAX_BODIES,
        receive_timeout: float = RECEIVE_TIMEOUT,
        drain: float = 30.0,
    ) -> None:
        urls = check_urls(urls)
        if api_key is not None and not api_key.strip():
            raise InvalidInputError("route: api-key: expected some text, got none")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64 * len(urls))
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=connect_timeout, pool=None), limits=limits, trust_env=False
        )
        replicas = Replicas(urls, policy, self._client, health_interval, health_timeout, api_key)
        self._metrics, self._drain = RouteMetrics(replicas), drain
        self.router = Router(replicas, self._metrics, self._client)
        app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/status", self._status),
                Route("/metrics", self._prometheus),
                *(Route(path, self.router) for path in ("/v1/{rest:path}", "/tokenize", "/detokenize")),
            ],
            lifespan=self._lifespan,
            exception_handlers={404: _unknown, 405: _unknown, ApiError: _answer},
        )
        layers: ASGIApp = LimitBody(app, max_body, max_bodies, receive_timeout)
        if api_key is not None:
            layers = CheckKey(layers, api_key)
        if hosts:
            layers = CheckHost(layers, hosts)
        self.app: ASGIApp = Observe(layers, self._metrics.requests, (*_OWN, *_PASSED_ON))

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self.router.replicas.look()
        watching = asyncio.create_task(self.router.replicas.watch())
        yield
        with suppress(asyncio.CancelledError):  # the host waits no longer, and need not be told that it does not
            await self.router.drain(self._drain)
        watching.cancel()
        await self._client.aclose()

    async def _health(self, request: Request) -> Response:
        """200 while the router lives, whatever its replicas do."""
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        """200 where some replica takes requests."""
        self.router.check_ready()
        return JSONResponse({"status": "ready"})

    async def _status(self, request: Request) -> Response:
        """How each replica is."""
        replicas, fleet = self.router.replicas, self.router.replicas.fleet
        columns = (fleet.healthy, fleet.in_flight, fleet.told, fleet.pages_held)
        rows = zip(replicas.urls, *(column.tolist() for column in columns), strict=True)
        names = ("url", "healthy", "in_flight", "told_load", "pages_held")
        found = [dict(zip(names, row, strict=True)) for row in rows]
        return JSONResponse({"ready": self.router.ready, "replicas": found})

    async def _prometheus(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _unknown(request: Request, error: Exception) -> Response:
    return error_response(ApiError(404, f"{request.url.path}: no such address"))


async def _answer(request: Request, error: Exception) -> Response:
    return error_response(api_error(error, request.state.request_id))
