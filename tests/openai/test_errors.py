"""Errors as clients get them: a status, a code, and nothing of what went wrong inside."""

from __future__ import annotations

import pytest

from tinyllm.engine.engine import DeadlineError, QueueFullError, StepError
from tinyllm.engine.engine_thread import StoppedError
from tinyllm.errors import InvalidInputError, TinyllmError, UnknownNameError, UnsupportedError
from tinyllm.openai.errors import ApiError, api_error


def broken(error: Exception) -> Exception:
    error.__cause__ = RuntimeError("a kernel")
    return error


@pytest.mark.parametrize(
    ("error", "status", "code", "kind", "param"),
    [
        (ApiError(418, "short and stout", code="teapot"), 418, "teapot", "invalid_request_error", None),
        (QueueFullError(3, 1.5), 429, "queue_full", "rate_limit_error", None),
        (UnknownNameError("no such"), 404, None, "not_found_error", None),
        (InvalidInputError("sampling: top_k: expected"), 400, None, "invalid_request_error", "top_k"),
        (InvalidInputError("prompt: has 9 tokens"), 400, "context_length_exceeded", "invalid_request_error", "prompt"),
        (UnsupportedError("messages: no template"), 422, "unsupported", "invalid_request_error", "messages"),
        (DeadlineError("late"), 504, "timeout", "timeout_error", None),
        (StoppedError("stopping"), 503, "draining", "server_error", None),
        (broken(StoppedError("broke")), 503, "stopped", "server_error", None),
        (broken(StepError("a kernel")), 500, "model_failed", "server_error", None),
        (TinyllmError("odd"), 500, None, "server_error", None),
        (ZeroDivisionError("/some/where"), 500, "internal_error", "server_error", None),
    ],
)
def test_every_error_has_a_status(error: Exception, status: int, code: str, kind: str, param: str) -> None:
    answer = api_error(error, "req_1")
    told = answer.body()["error"]
    assert (answer.status, told["code"], told["type"], told["param"]) == (status, code, kind, param)
    assert "kernel" not in told["message"] and "/some/where" not in told["message"]
    assert status != 500 or "req_1" in told["message"]


def test_half_a_surrogate_pair_can_be_answered() -> None:
    body = ApiError(400, "\ud800: not supported", "\ud800").body()["error"]
    assert f"{body['message']}{body['param']}".encode() == b"\\ud800: not supported\\ud800"
