"""`POST /v1/chat/completions`."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tinyllm.openai.requests import prepare_chat
from tinyllm.openai.schema import ChatRequest
from tinyllm.server.reply_response import REPLY_RESPONSES, Responder


def chat_completion_routes(responder: Responder) -> APIRouter:
    """The next message of a conversation."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/chat/completions", responses=REPLY_RESPONSES, response_class=JSONResponse)
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """The next message of a conversation."""
        return await responder.respond(request, body, prepare_chat)

    return routes
