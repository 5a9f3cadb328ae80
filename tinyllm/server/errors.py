"""Errors as HTTP answers: their status, headers and body, and what the schema says of them."""

from __future__ import annotations

import math
from typing import Any, get_type_hints

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from tinyllm.errors import TinyllmError
from tinyllm.openai.errors import ApiError, api_error, validation_error
from tinyllm.server.logs import log

_MEANINGS = {
    400: "The request is malformed, or has a field that is not supported.",
    401: "The API key is missing or wrong.",
    403: "The Host header is not one that this server answers to; see --allowed-host.",
    404: "No such model or address.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not of type application/json.",
    422: "The request is well formed, but this model or server cannot do it.",
    429: "The queue is full; see Retry-After.",
    500: "Something failed here; the log has the cause under the request's id.",
    503: "The model is being loaded, or the server shuts down.",
    504: "The reply was not done in the time that a request has.",
}
_ERROR_SCHEMA = {
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
Responses = dict[int | str, dict[str, Any]]


def error_responses(*statuses: int) -> Responses:
    """What the schema of the API says of errors with these statuses; without any, of all that a body can lead to."""
    return {
        status: {"description": _MEANINGS[status], "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
        for status in statuses or _MEANINGS
    }


def error_response(error: ApiError) -> JSONResponse:
    """The answer to a request that failed."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Have whatever a route raises answered as OpenAI's API does."""
    for kind in (TinyllmError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    headers = getattr(error, "headers", None) or {}
    if isinstance(error, RequestValidationError):
        error = _validation_error(request, error)
    elif isinstance(error, HTTPException):
        error = _http_error(request, error)
    answer = api_error(error, request.state.request_id)
    request.state.notes["error"] = str(error)
    if answer.status == 500 and not isinstance(error, ApiError):
        log.error("failed", extra={"fields": {"request_id": request.state.request_id}}, exc_info=error)
    response = error_response(answer)
    response.headers.update(headers)
    return response


def _validation_error(request: Request, error: RequestValidationError) -> ApiError:
    errors: Any = [detail | {"loc": detail["loc"][1:]} for detail in error.errors()]  # FastAPI puts "body" before
    body_type = get_type_hints(request.scope["endpoint"])["body"]
    return validation_error(errors, error.body, body_type.model_fields)


def _http_error(request: Request, error: HTTPException) -> ApiError:
    messages = {
        400: "body: expected JSON in UTF-8, got something else",
        404: f"{request.url.path}: no such address",
        405: f"{request.method}: {request.url.path} does not take this method",
    }
    return ApiError(error.status_code, messages.get(error.status_code, error.detail))
