"""`POST /v1/completions`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tinyllm.openai.requests import prepare_completion
from tinyllm.openai.schema import CompletionRequest
from tinyllm.server.reply_response import REPLY_RESPONSES, Responder


def completion_routes(responder: Responder) -> APIRouter:
    """Texts that continue prompts."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/completions", responses=REPLY_RESPONSES, response_class=JSONResponse)
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Texts that continue prompts, without the chat template."""
        return await responder.respond(request, body, prepare_completion)

    return routes
