"""The addresses of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp

from tinyllm import __version__
from tinyllm.errors import TinyllmError, invalid
from tinyllm.server.answer import Answer
from tinyllm.server.conversation import prompt_text
from tinyllm.server.errors import STATUSES, ApiError, api_error, validation_error
from tinyllm.server.loading import Host
from tinyllm.server.logs import log
from tinyllm.server.metrics import Metrics
from tinyllm.server.middleware import ASSETS, Authorize, CheckHost, LimitBody, Observe
from tinyllm.server.schema import Body, ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tinyllm.server.settings import MAX_BODY
from tinyllm.server.work import chat_work, completion_work

BODIES: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"description": STATUSES[s][1], "content": {"application/json": {"schema": _ERROR}}} for s in statuses}


_ANSWERS = _responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_Responses = dict[int | str, dict[str, Any]]
_STREAMED: _Responses = {
    200: {
        "content": {"application/json": {}, "text/event-stream": {}},
        "description": "A reply, or a stream of its chunks.",
    }
}


def make_app(
    host: Host,
    api_key: str | None = None,
    cors: list[str] | None = None,
    timeout: float | None = None,
    max_body: int = MAX_BODY,
    most_pending: int = 2048,
    hosts: Collection[str] = (),
) -> ASGIApp:
    """The whole server as an ASGI app; `host.thread` is started by whoever makes it.

    Args:
        api_key: what clients have to show; None: nothing. cors: origins whose pages may ask.
        timeout: seconds that a request has. max_body: bytes. most_pending: pieces of a reply that a slow reader may
            leave unread.
        hosts: names that a request may have in its header Host, in small letters, with any port; none: any.
    """
    metrics = Metrics(host)
    app = FastAPIOffline(
        title="tinyllm", version=__version__, redoc_url=None, static_url=ASSETS, description=f"Serves {host.name}."
    )
    _add_errors(app)
    _add_replies(app, host, metrics, timeout, most_pending)
    _add_tokens(app, host)
    _add_state(app, host, metrics)
    paths = [*BODIES, "/v1/models", "/health", "/ready", "/metrics", "/status", "/docs", "/openapi.json", "/"]
    inner: ASGIApp = LimitBody(app, max_body)
    if api_key:
        inner = Authorize(inner, api_key)
    if cors:
        methods = ("GET", "POST", "OPTIONS")
        inner = CORSMiddleware(
            inner, allow_origins=cors, allow_methods=methods, allow_headers=["*"], expose_headers=["X-Request-Id"]
        )
    if hosts:
        inner = CheckHost(inner, hosts)
    return Observe(inner, metrics, paths)


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, error: Exception) -> JSONResponse:
        told = api_error(error, request.state.request_id)
        request.state.notes["error"] = str(error)
        if told.status == 500 and not isinstance(error, ApiError):
            log.error("failed", extra={"fields": {"request_id": request.state.request_id}}, exc_info=error)
        return JSONResponse(told.body(), told.status, told.headers())

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return answer(request, error)

    async def http(request: Request, error: Exception) -> JSONResponse:
        status, detail = (
            (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "internal error")
        )
        if status == 404:
            detail = f"{request.url.path}: no such address"
        elif status == 405:
            detail = f"{request.method}: {request.url.path} does not take this method"
        elif status == 400:
            detail = "body: expected JSON in UTF-8, got something else"
        response = answer(request, ApiError(status, detail))
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    async def malformed(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            return answer(request, error)
        kind = BODIES.get(request.url.path)
        return answer(request, validation_error(list(error.errors()), error.body, kind.model_fields if kind else ()))

    app.add_exception_handler(TinyllmError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(Exception, ours)


def _add_replies(app: FastAPI, host: Host, metrics: Metrics, timeout: float | None, most_pending: int) -> None:
    def note(request: Request, body: ChatRequest | CompletionRequest) -> dict[str, Any]:
        notes: dict[str, Any] = request.state.notes
        named = {"user": body.user, "safety_identifier": getattr(body, "safety_identifier", None)}
        notes |= {"model": body.model} | {name: value for name, value in named.items() if value is not None}
        host.check_name(body.model)
        return notes

    def answer(request: Request, work: Any, notes: dict[str, Any]) -> Answer:
        most = host.settings.max_running + host.settings.max_waiting
        if len(work.sequences) > most:
            raise ApiError(
                400,
                f"n: expected at most {most} replies, which is what the queue holds, got {len(work.sequences)}",
                "n",
            )
        state = request.state
        return Answer(host, metrics, work, notes, state.request_id, state.started, timeout, most_pending)

    @app.post("/v1/chat/completions", responses=_ANSWERS | _STREAMED, response_class=JSONResponse, tags=["OpenAI"])
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """The next turn of a conversation."""
        notes, llm = note(request, body), host.llm
        return answer(request, await asyncio.to_thread(chat_work, llm, host.grammars, body), notes)

    @app.post("/v1/completions", responses=_ANSWERS | _STREAMED, response_class=JSONResponse, tags=["OpenAI"])
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """A text goes on, without the chat template."""
        notes, llm = note(request, body), host.llm
        return answer(request, await asyncio.to_thread(completion_work, llm, host.grammars, body), notes)

    @app.get("/v1/models", responses=_responses(401, 403), tags=["OpenAI"])
    async def models() -> JSONResponse:
        """The model that is served."""
        return JSONResponse({"object": "list", "data": [_model(host)]})

    @app.get("/v1/models/{model:path}", responses=_responses(401, 403, 404), tags=["OpenAI"])
    async def model(model: str) -> JSONResponse:
        """The model, by its name."""
        host.check_name(model)
        return JSONResponse(_model(host))


def _model(host: Host) -> dict[str, Any]:
    return {"id": host.name, "object": "model", "created": host.created, "owned_by": "tinyllm"}


def _add_tokens(app: FastAPI, host: Host) -> None:
    def tokens_of(body: TokenizeRequest) -> dict[str, Any]:
        llm = host.llm
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(
                400,
                "prompt: expected one of prompt and messages, got " + ("none" if body.prompt is None else "both"),
                "prompt",
            )
        if body.messages is not None:
            text = prompt_text(llm, body.messages, body.tools or [], body.add_generation_prompt)
            ids = llm.tokenizer.encode(text)
        elif body.tools:
            raise ApiError(400, "tools: expected messages beside it, got none", "tools")
        else:
            ids = llm.tokenizer.encode(body.prompt or "", add_special_tokens=body.add_special_tokens)
        return {"tokens": ids, "count": len(ids), "max_model_len": llm.context}

    def text_of(body: DetokenizeRequest) -> dict[str, Any]:
        llm = host.llm
        for token in body.tokens:
            if not 0 <= token < llm.config.vocab_size:
                raise invalid("tokens", "token id", f"an integer from 0 to {llm.config.vocab_size - 1}", token)
        return {"prompt": llm.tokenizer.decode(body.tokens, skip_special_tokens=False)}

    @app.post("/tokenize", responses=_ANSWERS, tags=["Tokens"])
    async def tokenize(body: TokenizeRequest) -> JSONResponse:
        """Token ids of a text, or of a conversation as the model sees it."""
        host.check_name(body.model)
        return JSONResponse(await asyncio.to_thread(tokens_of, body))

    @app.post("/detokenize", responses=_ANSWERS, tags=["Tokens"])
    async def detokenize(body: DetokenizeRequest) -> JSONResponse:
        """The text of token ids."""
        host.check_name(body.model)
        return JSONResponse(await asyncio.to_thread(text_of, body))


def _add_state(app: FastAPI, host: Host, metrics: Metrics) -> None:
    @app.get("/health", responses=_responses(503), tags=["State"])
    async def health() -> JSONResponse:
        """200 while the server lives, also while it loads; 503 where it has to be started again."""
        if host.thread.error is not None:
            raise ApiError(503, "the model is gone; the server has to be started again", code="stopped")
        return JSONResponse({"status": "ok"})

    @app.get("/ready", responses=_responses(503), tags=["State"])
    async def ready() -> JSONResponse:
        """200 where requests are taken; 503 while the model is loaded, and while the server shuts down."""
        return JSONResponse({"status": "ready", "model": host.name} if host.llm else {})

    @app.get("/status", responses=_responses(401, 403), tags=["State"])
    async def status() -> JSONResponse:
        """How things stand: backend, kernels, queue, pages, speed."""
        return JSONResponse(host.status())

    @app.get(
        "/metrics",
        responses=_responses(401, 403) | {200: {"content": {"text/plain": {}}}},
        response_class=Response,
        tags=["State"],
    )
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """A page to chat with the model."""
        file = files("tinyllm.server") / "page.html"
        if not file.is_file():
            raise ApiError(404, "page: this installation has none; the API is described at /docs")
        return HTMLResponse(file.read_text(encoding="utf-8"))
