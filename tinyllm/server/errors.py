"""From what went wrong to an OpenAI error object with the right status."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from pydantic_core import ErrorDetails

from tinyllm.engine.engine import DeadlineError, QueueFullError, StepError
from tinyllm.engine.engine_thread import StoppedError
from tinyllm.errors import InvalidInputError, TinyllmError, UnknownNameError, UnsupportedError, suggest

STATUSES = {
    400: ("invalid_request_error", "The request is malformed, or has a field that is not supported."),
    401: ("authentication_error", "The API key is missing or wrong."),
    403: ("permission_error", "The Host header is not one that this server answers to; see --allowed-host."),
    404: ("not_found_error", "No such model or address."),
    405: ("invalid_request_error", "The address does not take this method."),
    408: ("timeout_error", "The body did not come in time."),
    413: ("invalid_request_error", "The body is too large."),
    415: ("invalid_request_error", "The body is not of type application/json."),
    422: ("invalid_request_error", "The request is well formed, but this model or server cannot do it."),
    429: ("rate_limit_error", "The queue is full; see Retry-After."),
    500: ("server_error", "Something failed here; the log has the cause under the request's id."),
    503: ("server_error", "The model is being loaded, or the server shuts down."),
    504: ("timeout_error", "The reply was not done in the time that a request has."),
}
"""Per status: the type in its error object, and what it means."""


class ApiError(TinyllmError):
    """An answer that is no success. `param` names the field, `code` is for programs; retry_after: seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """The OpenAI error object."""
        kind = STATUSES.get(self.status, STATUSES[500 if self.status >= 500 else 400])[0]
        param = None if self.param is None else _encodable(self.param)
        return {"error": {"message": _encodable(str(self)), "type": kind, "param": param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Those that belong to the status."""
        found = {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def api_error(error: BaseException, request_id: str) -> ApiError:
    """The answer to any error. What a kernel or a bug says stays in the log."""
    if isinstance(error, ApiError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, QueueFullError):
        return ApiError(429, text, code="queue_full", retry_after=error.retry_after)
    if isinstance(error, UnknownNameError):
        return ApiError(404, text)
    if isinstance(error, InvalidInputError):
        long = text.startswith("prompt: has ")
        return ApiError(
            400, re.sub("^(sampling|generate): ", "", text), _field(text), "context_length_exceeded" if long else None
        )
    if isinstance(error, UnsupportedError):
        return ApiError(422, text, _field(text), "unsupported")
    if isinstance(error, DeadlineError):
        return ApiError(504, text, code="timeout")
    if isinstance(error, StoppedError):
        if error.__cause__ is not None:
            return ApiError(503, "the model is gone; the server has to be started again", code="stopped")
        return ApiError(503, "the server is shutting down", code="draining", retry_after=5)
    if isinstance(error, StepError):
        return ApiError(
            500, f"the model failed on this request; the log has the cause under {request_id}", code="model_failed"
        )
    if isinstance(error, TinyllmError):
        return ApiError(500, f"{text} (request {request_id})")
    return ApiError(500, f"internal error; the log has the cause under {request_id}", code="internal_error")


def _field(text: str) -> str | None:
    """The field that a message names: `prompt: ...`, `sampling: top_k: ...`."""
    found = re.match(r"(?:(?:sampling|grammar): )?(?!generate: )([\w.\[\]]+): ", text)
    return found[1] if found else None


def validation_error(errors: list[ErrorDetails], body: Any, known: Collection[str]) -> ApiError:
    """The answer to a body of another form: the innermost thing that is wrong. known: the fields that there are."""
    places = [_place(error["loc"], body, error["type"] == "missing") for error in errors]
    # of the alternatives that a field has, one whose type is right tells most
    index = max(range(len(errors)), key=lambda i: (len(places[i]), not errors[i]["type"].endswith("_type")))
    error, place = errors[index], places[index]
    path = ".".join(map(str, place)) or "body"
    kind = error["type"]
    if kind == "json_invalid":
        return ApiError(
            400, f"body: expected JSON, got an error at character {error['loc'][-1]}: {error['ctx']['error']}", "body"
        )
    if kind == "extra_forbidden":
        hint = suggest(path, known) if len(place) == 1 else ""
        return ApiError(
            400, f"{path}: not supported{f'.{hint}' if 'Did you mean' in hint else ''}", path, "unsupported_field"
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = error["ctx"]["discriminator"].strip("'")
        given = error["input"].get(field) if isinstance(error["input"], dict) else error["input"]
        wanted = f"one of {error['ctx']['expected_tags']}" if "expected_tags" in error["ctx"] else "an object with it"
        return ApiError(400, f"{path}.{field}: expected {wanted}, got {_shown(given)}", f"{path}.{field}")
    if kind == "missing":
        return ApiError(400, f"{path}: expected a value, got none", path)
    expected = re.sub(r"^(Input should be|Value error,) ", "", error["msg"])
    expected = expected if kind == "value_error" else f"expected {expected[:1].lower()}{expected[1:]}"
    return ApiError(
        400,
        f"{path}: {expected}, got {_shown(error['input'])}",
        path,
        "unsupported_value" if kind == "value_error" else None,
    )


def _place(location: tuple[int | str, ...], body: Any, missing: bool) -> list[int | str]:
    """A location without the names of alternatives that pydantic puts between the keys of the body."""
    place: list[int | str] = []
    value: Any = body
    for number, key in enumerate(location[1:], 2):
        if _has(value, key):
            value = value[key]
            place.append(key)
        elif missing and number == len(location):
            place.append(key)
    return place


def _has(value: Any, key: int | str) -> bool:
    return (
        key in value
        if isinstance(value, dict)
        else isinstance(value, list) and isinstance(key, int) and key < len(value)
    )


def _encodable(text: str) -> str:
    """A name out of a body may hold half a surrogate pair, which no answer in UTF-8 can."""
    return text.encode(errors="backslashreplace").decode()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
