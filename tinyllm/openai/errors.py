"""Errors as OpenAI's API has them: an HTTP status, and an object with `message`, `type`, `param` and `code`."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice
from typing import Any

from pydantic_core import ErrorDetails

from tinyllm.engine.engine import DeadlineError, QueueFullError, StepError
from tinyllm.engine.engine_thread import StoppedError
from tinyllm.engine.grammar.trials import TrialsBusyError
from tinyllm.errors import (
    InvalidInputError,
    ModelGoneError,
    TinyllmError,
    UnknownNameError,
    UnsupportedError,
    suggest,
)

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
"""The `type` of an error by its status; others have `invalid_request_error` below 500 and `server_error` from there."""


class ApiError(TinyllmError):
    """An error with the status that it is answered with.

    Args:
        param: the field of the request that is wrong.
        code: a word for programs.
        retry_after: seconds after which it is worth asking again.
    """

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
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        param = None if self.param is None else _encodable(self.param)
        return {"error": {"message": _encodable(str(self)), "type": kind, "param": param, "code": self.code}}


def api_error(error: BaseException, request_id: str) -> ApiError:
    """The error that a client gets for any exception. What a kernel or a bug says is left to the log."""
    if isinstance(error, ApiError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, QueueFullError):
        return ApiError(429, text, code="queue_full", retry_after=error.retry_after)
    if isinstance(error, TrialsBusyError):
        return ApiError(429, text, code="grammars_full", retry_after=error.retry_after)
    if isinstance(error, UnknownNameError):
        return ApiError(404, text)
    if isinstance(error, InvalidInputError):
        code = "context_length_exceeded" if text.startswith("prompt: has ") else None
        return ApiError(400, re.sub("^(sampling|generate): ", "", text), _field(text), code)
    if isinstance(error, UnsupportedError):
        return ApiError(422, text, _field(text), "unsupported")
    if isinstance(error, DeadlineError):
        return ApiError(504, text, code="timeout")
    if isinstance(error, StoppedError):
        if error.__cause__ is not None:
            return gone(error.__cause__)
        return ApiError(503, "the server is shutting down", code="draining", retry_after=5)
    if isinstance(error, StepError):
        return ApiError(
            500, f"the model failed on this request; the log has the cause under {request_id}", code="model_failed"
        )
    if isinstance(error, TinyllmError):
        return ApiError(500, f"{text} (request {request_id})")
    return ApiError(500, f"internal error; the log has the cause under {request_id}", code="internal_error")


def gone(cause: BaseException) -> ApiError:
    """503 of a model that answers no more, whatever is asked, with what it was that ended."""
    why = f" ({cause})" if isinstance(cause, ModelGoneError) else ""
    return ApiError(503, f"the model is gone{why}; the server has to be started again", code="stopped")


def _field(text: str) -> str | None:
    """The field that a message begins with: `prompt: ...`, `sampling: top_k: ...`."""
    match = re.match(r"(?:(?:sampling|grammar): )?(?!generate: )([\w.\[\]]+): ", text)
    return match[1] if match else None


def validation_error(errors: list[ErrorDetails], body: Any, fields: Collection[str]) -> ApiError:
    """The error for a body that its schema does not allow.

    Args:
        errors: what pydantic found wrong with it; the innermost place is told.
        body: what was validated.
        fields: names of the fields that it may have, from which a misspelt one gets a suggestion.
    """
    places = [_place(error["loc"], body, error["type"] == "missing") for error in errors]
    # a field with several alternatives has an error for each: one whose type is right tells most
    kinds = [error["type"] for error in errors]
    index = max(
        range(len(errors)), key=lambda i: (kinds[i] == "too_long", len(places[i]), not kinds[i].endswith("_type"))
    )
    error, place = errors[index], places[index]
    path = ".".join(map(str, place)) or "body"
    kind = error["type"]
    if kind == "json_invalid":
        return ApiError(
            400, f"body: expected JSON, got an error at character {error['loc'][-1]}: {error['ctx']['error']}", "body"
        )
    if kind in ("extra_forbidden", "none_required"):
        hint = suggest(path, fields) if len(place) == 1 else ""
        return ApiError(
            400, f"{path}: not supported{f'.{hint}' if 'Did you mean' in hint else ''}", path, "unsupported_field"
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = error["ctx"]["discriminator"].strip("'")
        value = error["input"].get(field) if isinstance(error["input"], dict) else error["input"]
        expected = f"one of {error['ctx']['expected_tags']}" if "expected_tags" in error["ctx"] else "an object with it"
        return ApiError(400, f"{path}.{field}: expected {expected}, got {_shown(value)}", f"{path}.{field}")
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
    """The keys of the body that lead to an error. pydantic puts the names of alternatives between them.

    Args:
        missing: whether the last key is missing in the body.
    """
    place: list[int | str] = []
    value: Any = body
    for number, key in enumerate(location, 1):
        try:
            value = value[key]
        except (LookupError, TypeError):
            if not missing or number < len(location):
                continue
        place.append(key)
    return place


def _encodable(text: str) -> str:
    """The text with half surrogate pairs escaped: JSON can say them, and no answer in UTF-8 can."""
    return text.encode(errors="backslashreplace").decode()


def _shown(value: Any) -> str:
    """The beginning of a value, of which not much more is written out than is shown."""
    text = repr(_beginning(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _beginning(value: Any, depth: int = 80) -> Any:
    if isinstance(value, str):
        return value[:81]
    if isinstance(value, (list, dict)) and not depth:
        return ...
    if isinstance(value, list):
        return [_beginning(item, depth - 1) for item in value[:27]]
    if isinstance(value, dict):
        return {key: _beginning(item, depth - 1) for key, item in islice(value.items(), 14)}
    return value
