"""OpenAI's own addresses: `POST /v1/chat/completions` and `/v1/completions`, and `GET /v1/models`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tinyllm.openai.requests import check_model, prepare_chat, prepare_completion
from tinyllm.openai.schema import ChatRequest, CompletionRequest
from tinyllm.server.body_route import BodyRoute
from tinyllm.server.errors import error_responses
from tinyllm.server.reply_response import REPLY_RESPONSES, Responder


def openai_routes(responder: Responder) -> APIRouter:
    """Replies to conversations and prompts, and the one model that is served."""
    routes = APIRouter(tags=["OpenAI"], route_class=BodyRoute)
    served = responder.model

    def entry() -> dict[str, Any]:
        known = {"id": served.name, "object": "model", "created": served.created, "owned_by": "tinyllm"}
        return known | served.sampling()

    @routes.post("/v1/chat/completions", responses=REPLY_RESPONSES, response_class=JSONResponse)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """The next message of a conversation."""
        return await responder.respond(request, body, prepare_chat)

    @routes.post("/v1/completions", responses=REPLY_RESPONSES, response_class=JSONResponse)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Texts that continue prompts, without the chat template."""
        return await responder.respond(request, body, prepare_completion)

    @routes.get("/v1/models", responses=error_responses(401, 403))
    async def models() -> JSONResponse:
        """The model that is served."""
        return JSONResponse({"object": "list", "data": [entry()]})

    @routes.get("/v1/models/{model:path}", responses=error_responses(401, 403, 404))
    async def model(model: str) -> JSONResponse:
        """The model, by its name."""
        check_model(model, served.name)
        return JSONResponse(entry())

    return routes
