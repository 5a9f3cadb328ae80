"""`GET /v1/models`: the one model that is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from tinyllm.openai.requests import check_model
from tinyllm.server.errors import error_responses
from tinyllm.server.served_model import ServedModel


def model_routes(served: ServedModel) -> APIRouter:
    """The list of models, and a model by its name."""
    routes = APIRouter(tags=["OpenAI"])
    entry: dict[str, Any] = {"id": served.name, "object": "model", "created": served.created, "owned_by": "tinyllm"}

    @routes.get("/v1/models", responses=error_responses(401, 403))
    async def models() -> JSONResponse:
        """The model that is served."""
        return JSONResponse({"object": "list", "data": [entry]})

    @routes.get("/v1/models/{model:path}", responses=error_responses(401, 403, 404))
    async def model(model: str) -> JSONResponse:
        """The model, by its name."""
        check_model(model, served.name)
        return JSONResponse(entry)

    return routes
