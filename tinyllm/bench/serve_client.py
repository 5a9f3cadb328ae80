"""One streamed request to an OpenAI server, timed chunk by chunk."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tinyllm.bench.serve_plan import Planned
from tinyllm.errors import TinyllmError

Endpoint = Literal["chat", "completions"]
PATHS: dict[Endpoint, str] = {"chat": "/chat/completions", "completions": "/completions"}
CONNECTION, TIMEOUT, STREAM = "connection", "timeout", "stream"
"""Kinds of error beside the HTTP status: no connection or a lost one, no answer in time, a stream that is none or
breaks off."""
_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Target:
    """A server. `extra` joins the body of each request; `usage`: whether the stream is asked for its usage."""

    url: str
    model: str
    endpoint: Endpoint = "chat"
    extra: dict[str, Any] = field(default_factory=dict)
    usage: bool = True

    def body(self, planned: Planned) -> dict[str, Any]:
        """What is sent."""
        prompt: dict[str, Any] = {"prompt": planned.prompt}
        if self.endpoint == "chat":
            prompt = {"messages": [{"role": "user", "content": planned.prompt}]}
        body = {"model": self.model, **prompt, "max_tokens": planned.max_tokens, "temperature": 0, "stream": True}
        if self.usage:
            body["stream_options"] = {"include_usage": True}
        return body | self.extra


@dataclass
class Outcome:
    """How a request went, in seconds since the start of the run. error: the HTTP status, or `connection`, `timeout`,
    `stream`.

    times: when each chunk with text came. The token counts are those of the server's usage, None where it gave none.
    """

    index: int
    planned: float | None
    started: float
    ended: float = 0.0
    times: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    message: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of the reply: by usage, otherwise its chunks."""
        return len(self.times) if self.completion_tokens is None else self.completion_tokens

    @property
    def first_token(self) -> float | None:
        """Seconds to the first text."""
        return self.times[0] - self.started if self.times else None

    @property
    def token_seconds(self) -> float | None:
        """Seconds per token after the first; None where there was but one."""
        return (self.times[-1] - self.times[0]) / (self.tokens - 1) if len(self.times) > 1 and self.tokens > 1 else None

    @property
    def seconds(self) -> float:
        """From sending to the end of the stream."""
        return self.ended - self.started


class _StreamError(TinyllmError):
    """A stream that is not what an OpenAI server sends."""


def client(timeout: float, api_key: str | None) -> httpx.AsyncClient:
    """As many connections as there are requests, so that none waits for another on our side."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(timeout=httpx.Timeout(timeout, pool=None), limits=limits, headers=headers)


async def ask(
    http: httpx.AsyncClient, target: Target, planned: Planned, origin: float, timeout: float = 600.0
) -> Outcome:
    """Send a request and read its stream to the end; whatever goes wrong is in the outcome. origin: the clock at the
    run's start.

    timeout: seconds for the whole of it.
    """

    def now() -> float:
        return time.perf_counter() - origin

    url, body = target.url + PATHS[target.endpoint], target.body(planned)
    outcome = Outcome(planned.index, planned.at, now())
    try:
        async with asyncio.timeout(timeout), http.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                outcome.error, outcome.message = str(response.status_code), _error_message(await response.aread())
            else:
                await _read(response, outcome, now)
    except _StreamError as error:
        outcome.error, outcome.message = STREAM, str(error)
    except (TimeoutError, httpx.TimeoutException):
        outcome.error, outcome.message = TIMEOUT, f"not done within {timeout:g} s"
    except httpx.RemoteProtocolError as error:
        outcome.error, outcome.message = STREAM if outcome.times else CONNECTION, str(error)
    except (httpx.HTTPError, OSError) as error:
        outcome.error, outcome.message = CONNECTION, str(error) or type(error).__name__
    outcome.ended = now()
    return outcome


async def _read(response: httpx.Response, outcome: Outcome, now: Callable[[], float]) -> None:
    kind = response.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise _StreamError(f"expected a stream of events, got content of type {kind or 'unknown'}")
    async for data in _data(response):
        if data == b"[DONE]":
            return
        _take(outcome, data, now())
    if outcome.finish_reason is None:
        raise _StreamError("the stream ended before its reply did")


async def _data(response: httpx.Response) -> AsyncIterator[bytes]:
    """The data of each event. Lines are cut at line feeds alone: the text in them may hold what Unicode takes for line
    ends as well."""
    buffer = b""
    async for piece in response.aiter_bytes():
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _take(outcome: Outcome, data: bytes, at: float) -> None:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise _StreamError(f"expected JSON, got {_shortened(data)}") from error
    if not isinstance(chunk, dict):
        raise _StreamError(f"expected an object, got {_shortened(data)}")
    if chunk.get("error"):
        raise _StreamError(_error_message(data))
    choices = [c for c in chunk.get("choices") or [] if isinstance(c, dict)]
    if any(_has_text(choice) for choice in choices):
        outcome.times.append(at)
    for choice in choices:
        outcome.finish_reason = choice.get("finish_reason") or outcome.finish_reason
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        outcome.prompt_tokens = _count(usage.get("prompt_tokens"))
        outcome.completion_tokens = _count(usage.get("completion_tokens"))
        details = usage.get("prompt_tokens_details")
        outcome.cached_tokens = _count(details.get("cached_tokens")) if isinstance(details, dict) else None


def _has_text(choice: dict[str, Any]) -> bool:
    """Whether it brings something that a reader sees; the chunk with the role alone does not."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return bool(choice.get("text"))
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "refusal", "tool_calls"))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _error_message(data: bytes) -> str:
    """What an OpenAI error object says, or the text as it is."""
    try:
        found = json.loads(data)["error"]
        return _shortened(str(found["message"] if isinstance(found, dict) else found).encode())
    except (ValueError, LookupError, TypeError):
        return _shortened(data)


def _shortened(data: bytes) -> str:
    text = " ".join(data[: 4 * _LONGEST_MESSAGE].decode(errors="replace").split())
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "..."
