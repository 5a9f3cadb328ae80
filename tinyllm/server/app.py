"""The server as an ASGI app, which any host of such apps runs: uvicorn, hypercorn, and others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from tinyllm import __version__
from tinyllm.errors import InvalidInputError
from tinyllm.server.access import ASSETS, CheckHost, CheckKey, check_origins
from tinyllm.server.errors import add_error_handlers
from tinyllm.server.metrics import Metrics
from tinyllm.server.middleware import LimitBody, Observe
from tinyllm.server.reply_response import Responder
from tinyllm.server.routes.openai import openai_routes
from tinyllm.server.routes.page import page_routes
from tinyllm.server.routes.state import state_routes
from tinyllm.server.routes.tokens import token_routes
from tinyllm.server.served_model import ServedModel
from tinyllm.server.settings import MAX_BODIES, MAX_BODY, RECEIVE_TIMEOUT


def make_app(
    model: ServedModel,
    *,
    api_key: str | None = None,
    cors: Collection[str] = (),
    hosts: Collection[str] = (),
    timeout: float | None = None,
    max_body: int = MAX_BODY,
    max_bodies: int = MAX_BODIES,
    receive_timeout: float = RECEIVE_TIMEOUT,
    max_pending: int = 2048,
    drain: float = 30.0,
) -> ASGIApp:
    """The whole server.

    The app begins to load the model at its startup, and answers 503 until it is there. At its shutdown it refuses new
    requests with 503, lets running ones end, and ends the model's thread. An app and its model can be started once.

    Args:
        api_key: what clients have to show; None: nothing.
        cors: the origins of web pages that may ask, or `*`.
        hosts: names that the Host header may have, as `allowed_hosts` gives them; none: any.
        timeout: seconds that a request has; None: any.
        max_body: bytes that a request may have.
        max_bodies: bytes that all requests may have that are still being received.
        receive_timeout: seconds in which a body has to come.
        max_pending: pieces of a choice that a client may leave unread before its stream is dropped.
        drain: seconds that running requests have at shutdown. A host may cancel them before, as it has a limit of its
            own.

    Raises:
        InvalidInputError: a blank key, or what is no origin.
    """
    if api_key is not None and not api_key.strip():
        raise InvalidInputError("serve: api-key: expected some text, got none")
    check_origins(cors)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        model.thread.start()  # it loads the model
        yield
        with suppress(asyncio.CancelledError):  # the host waits no longer, and need not be told that it does not
            await model.drain(drain)

    app = FastAPIOffline(
        title="tinyllm",
        version=__version__,
        description=f"Serves {model.name}.",
        redoc_url=None,
        static_url=ASSETS,
        lifespan=lifespan,
    )
    add_error_handlers(app)
    metrics = Metrics(model)
    routers = (
        openai_routes(Responder(model, metrics, timeout, max_pending)),
        token_routes(model),
        state_routes(model, metrics),
        page_routes(),
    )
    paths = [route.path for router in (app, *routers) for route in router.routes if isinstance(route, Route)]
    for router in routers:
        app.include_router(router)
    layers: ASGIApp = LimitBody(app, max_body, max_bodies, receive_timeout)
    if api_key is not None:
        layers = CheckKey(layers, api_key)
    if cors:
        methods = ("GET", "POST", "OPTIONS")
        layers = CORSMiddleware(
            layers, allow_origins=cors, allow_methods=methods, allow_headers=["*"], expose_headers=["X-Request-Id"]
        )
    if hosts:
        layers = CheckHost(layers, hosts)
    return Observe(layers, metrics.requests, paths)
