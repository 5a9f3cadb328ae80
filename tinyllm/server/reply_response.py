"""The HTTP response that a reply is sent in: whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tinyllm.engine.sequence import Piece
from tinyllm.llm import LLM
from tinyllm.openai.constraints import Constraint
from tinyllm.openai.errors import ApiError, api_error
from tinyllm.openai.replies import make_reply
from tinyllm.openai.requests import PreparedRequest, check_model
from tinyllm.openai.schema import ChatRequest, CompletionRequest
from tinyllm.server.compiling import ClientGoneError, compiled_constraint, until_gone
from tinyllm.server.errors import Responses, error_responses
from tinyllm.server.events import event_bytes, json_bytes
from tinyllm.server.in_flight import RequestInFlight
from tinyllm.server.logs import log
from tinyllm.server.metrics import Metrics
from tinyllm.server.served_model import ServedModel

RequestType = TypeVar("RequestType", ChatRequest, CompletionRequest)
REPLY_RESPONSES: Responses = error_responses() | {
    200: {
        "content": {"application/json": {}, "text/event-stream": {}},
        "description": "A reply, or a stream of its chunks.",
    }
}
"""What the schema of the API says of the answers to requests for replies."""
_NOTED = 200
"""Characters of what a client says of itself that go into the log."""
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Responder:
    """Makes the responses to requests for replies.

    Args:
        timeout: seconds that a request has; None: any.
        max_pending: pieces of a choice that a client may leave unread before its stream is dropped.
    """

    def __init__(self, model: ServedModel, metrics: Metrics, timeout: float | None, max_pending: int) -> None:
        self.model, self.metrics, self.timeout, self.max_pending = model, metrics, timeout, max_pending

    async def respond(
        self,
        request: Request,
        body: RequestType,
        prepare: Callable[[LLM, RequestType, Constraint | None], PreparedRequest],
    ) -> Response:
        """The response to a request, which `prepare` turns into sequences.

        Raises:
            ApiError, InvalidInputError, UnsupportedError: with the field that is wrong.
        """
        said = body.model_dump(include={"model", "user", "safety_identifier"}, exclude_none=True)
        request.state.notes |= {name: text[:_NOTED] for name, text in said.items()}
        check_model(body.model, self.model.name)
        llm = self.model.llm
        try:
            constraint = await compiled_constraint(
                llm, body, request.receive, self.seconds_left(request.state.started), self.model.check_ready
            )
        except ClientGoneError:
            return _NoResponse()
        prepared = await asyncio.to_thread(prepare, llm, body, constraint)
        room, count = self.model.settings.max_running + self.model.settings.max_waiting, len(prepared.sequences)
        if count > room:
            raise ApiError(400, f"n: expected at most {room} replies, which is what the queue holds, got {count}", "n")
        return ReplyResponse(self, prepared)

    def seconds_left(self, started: float) -> float | None:
        """The time that a request still has; None: any."""
        return None if self.timeout is None else max(0.0, self.timeout - (time.monotonic() - started))


class ReplyResponse(Response):
    """Runs a request and sends its reply. A client that goes away ends the request, streaming or not."""

    def __init__(self, responder: Responder, prepared: PreparedRequest) -> None:
        super().__init__()
        self._responder, self._model, self._prepared = responder, responder.model, prepared
        self._reply = make_reply(prepared, self._model.name, self._model.fingerprint, self._model.llm.tokenizer)
        self._started = False  # whether the status was sent
        self._first_token: float | None = None
        self._last_token = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model, prepared, state = self._model, self._prepared, scope["state"]
        max_pending = self._responder.max_pending * len(prepared.sequences) if prepared.request.stream else None
        request = RequestInFlight(model.thread, model.mailbox, prepared.groups, max_pending)
        watcher = asyncio.create_task(_end_when_gone(receive, request))
        model.active.add(request)
        try:
            await request.submit(prepared.request.priority or 0, self._responder.seconds_left(state["started"]))
            await self._run(request, state["started"], scope, receive, send)
        except ClientGoneError:
            state["notes"]["error"] = "the client went away"
            state["gone"] = True
        except Exception as error:
            if not self._started:
                raise  # the app's handlers answer it
            await self._break_off(error, state, send)
        finally:
            model.active.discard(request)
            watcher.cancel()
            request.close()
            self._note(state)

    async def _run(self, request: RequestInFlight, started: float, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the engine writes, until every choice is finished. Raises the error that ended the request."""
        prepared, reply = self._prepared, self._reply
        async for events in request.events():
            error = next((event.error for _, event in events if event.error is not None), None)
            pieces = [(index, event.piece, event.reused) for index, event in events if event.piece is not None]
            self._count(pieces, started)
            take = partial(self._take, pieces)
            # those of a long prompt are many
            long = any(piece.prompt_logprobs for _, piece, _ in pieces)
            data = await asyncio.to_thread(take) if long else take()
            done = len(reply.finished) == len(prepared.sequences)
            if done:
                request.close()
            elif error is not None and not self._started:
                raise error
            if prepared.request.stream:
                if done and prepared.with_usage:
                    data += event_bytes(reply.usage_chunk())
                await self._send_data(data, done, send)
            elif done:
                self._started = True
                content = await asyncio.to_thread(lambda: _whole(reply.body()))
                await Response(content, media_type="application/json")(scope, receive, send)
            if done:
                return
            if error is not None:
                raise error

    def _count(self, pieces: list[tuple[int, Piece, int]], started: float) -> None:
        """For the metrics."""
        for _, piece, _ in pieces:
            if piece.token_ids:
                self._model.rate.add(len(piece.token_ids))
                self._last_token = time.monotonic()
                if self._first_token is None:
                    self._first_token = self._last_token
                    self._responder.metrics.first_token.observe(self._first_token - started)

    def _take(self, pieces: list[tuple[int, Piece, int]]) -> bytes:
        """Put pieces into the reply. Returns what a stream is sent of them."""
        chunks = [chunk for index, piece, reused in pieces for chunk in self._reply.push(index, piece, reused)]
        return b"".join(map(event_bytes, chunks)) if self._prepared.request.stream else b""

    async def _send_data(self, data: bytes, done: bool, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        data += b"data: [DONE]\n\n" if done else b""
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": not done})

    async def _break_off(self, error: Exception, state: dict[str, Any], send: Send) -> None:
        """End a stream with an error object, as it is too late for a status."""
        answer = api_error(error, state["request_id"])
        state["notes"]["error"] = str(error)
        log.error(
            "stream broken off",
            extra={"fields": {"request_id": state["request_id"]}},
            exc_info=error if answer.status == 500 else None,
        )
        await send({"type": "http.response.body", "body": event_bytes(answer.body())})

    def _note(self, state: dict[str, Any]) -> None:
        """For the log and the metrics: tokens, times, and how the reply ended."""
        reply, metrics, tokens = self._reply, self._responder.metrics, self._reply.completion_tokens
        state["notes"] |= {
            "prompt_tokens": reply.prompt_tokens,
            "cached_tokens": reply.cached_tokens,
            "completion_tokens": tokens,
            "stream": bool(self._prepared.request.stream),
            "finish_reasons": sorted(set(reply.finish_reasons.values())),
        }
        if self._first_token is not None:
            state["notes"]["first_token_seconds"] = round(self._first_token - state["started"], 4)
            if tokens > 1:
                writing = self._last_token - self._first_token
                metrics.token.observe(writing / (tokens - 1) * len(self._prepared.sequences))
            metrics.whole.observe(time.monotonic() - state["started"])


def _whole(body: dict[str, Any]) -> bytes:
    """A whole reply as JSON, a choice at a time, between which other threads have their turn."""
    rest = {name: value for name, value in body.items() if name != "choices"}
    choices = [json_bytes(choice) for choice in body["choices"]]
    return json_bytes(rest)[:-1] + b',"choices":[' + b",".join(choices) + b"]}"


async def _end_when_gone(receive: Receive, request: RequestInFlight) -> None:
    await until_gone(receive)
    request.end(ClientGoneError())


class _NoResponse(Response):
    """To a client that went away."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["notes"]["error"] = "the client went away"
        scope["state"]["gone"] = True
