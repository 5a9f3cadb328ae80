"""`POST /tokenize` and `/detokenize`: token ids of a text or a conversation, and back."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from tinyllm.errors import invalid
from tinyllm.llm import LLM
from tinyllm.openai.conversation import encode_text, prompt_text
from tinyllm.openai.errors import ApiError
from tinyllm.openai.requests import check_model, template_options
from tinyllm.openai.schema import DetokenizeRequest, TokenizeRequest
from tinyllm.server.body_route import BodyRoute
from tinyllm.server.errors import error_responses
from tinyllm.server.served_model import ServedModel

_OF_MESSAGES = ("tools", "chat_template_kwargs", "reasoning_effort", "continue_final_message")
"""Fields that say nothing of a text."""


def token_routes(model: ServedModel) -> APIRouter:
    """Both ways between texts and token ids."""
    routes = APIRouter(tags=["Tokens"], route_class=BodyRoute)

    @routes.post("/tokenize", responses=error_responses())
    async def tokenize(body: TokenizeRequest) -> JSONResponse:
        """Token ids of a text, or of a conversation as the model sees it."""
        check_model(body.model or model.name, model.name)
        return JSONResponse(await asyncio.to_thread(_tokens, model.llm, body))

    @routes.post("/detokenize", responses=error_responses())
    async def detokenize(body: DetokenizeRequest) -> JSONResponse:
        """The text of token ids."""
        check_model(body.model or model.name, model.name)
        return JSONResponse(await asyncio.to_thread(_text, model.llm, body))

    return routes


def _tokens(llm: LLM, body: TokenizeRequest) -> dict[str, Any]:
    if (body.prompt is None) == (body.messages is None):
        which = "none" if body.prompt is None else "both"
        raise ApiError(400, f"prompt: expected one of prompt and messages, got {which}", "prompt")
    if body.messages is not None:
        text = prompt_text(llm, body.messages, body.tools or [], template_options(body))
        token_ids = encode_text(llm, text)
    elif alone := [name for name in _OF_MESSAGES if getattr(body, name)]:
        raise ApiError(400, f"{alone[0]}: expected messages beside it, got none", alone[0])
    else:
        token_ids = encode_text(llm, body.prompt or "", body.add_special_tokens)
    return {"tokens": token_ids, "count": len(token_ids), "max_model_len": llm.context}


def _text(llm: LLM, body: DetokenizeRequest) -> dict[str, Any]:
    for token in body.tokens:
        if not 0 <= token < llm.config.vocab_size:
            raise invalid("tokens", "token id", f"an integer from 0 to {llm.config.vocab_size - 1}", token)
    return {"prompt": llm.tokenizer.decode(body.tokens, skip_special_tokens=False)}
