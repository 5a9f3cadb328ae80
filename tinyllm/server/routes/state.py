"""How the server is: `GET /health` and `/ready` for probes, `/metrics` for Prometheus, `/status` for the page."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from tinyllm.server.errors import error_responses
from tinyllm.server.metrics import Metrics
from tinyllm.server.served_model import ServedModel


def state_routes(model: ServedModel, metrics: Metrics) -> APIRouter:
    """Health, readiness, status and metrics."""
    routes = APIRouter(tags=["State"])

    @routes.get("/health", responses=error_responses(503))
    async def health() -> JSONResponse:
        """200 while the server lives, also while it loads; 503 where it has to be started again."""
        model.check_alive()
        return JSONResponse({"status": "ok"})

    @routes.get("/ready", responses=error_responses(503))
    async def ready() -> JSONResponse:
        """200 where requests are taken; 503 while the model is loaded, and while the server shuts down."""
        model.check_ready()
        return JSONResponse({"status": "ready", "model": model.name})

    @routes.get("/status", responses=error_responses(401, 403))
    async def status() -> JSONResponse:
        """How things stand: backend, kernels, queue, pages, memory, speed."""
        return JSONResponse(model.status())

    @routes.get(
        "/metrics",
        responses=error_responses(401, 403) | {200: {"content": {"text/plain": {}}}},
        response_class=Response,
    )
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes
