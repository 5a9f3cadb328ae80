"""An answer that the engine writes: whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tinyllm.engine.engine import Event
from tinyllm.server.errors import api_error
from tinyllm.server.loading import Host
from tinyllm.server.logs import log
from tinyllm.server.metrics import Metrics
from tinyllm.server.replies import ChatReply, CompletionReply, make_reply
from tinyllm.server.running import ClientGoneError, Running
from tinyllm.server.work import Work

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Answer(Response):
    """Runs a request and sends what comes of it. A client that goes away ends it, streaming or not.

    Args:
        started: when the request came. seconds: the time it has. most_pending: see `Running`.
        notes: what the log is to say of it; filled here.
    """

    def __init__(
        self,
        host: Host,
        metrics: Metrics,
        work: Work,
        notes: dict[str, Any],
        request_id: str,
        started: float,
        seconds: float | None,
        most_pending: int,
    ) -> None:
        super().__init__()
        self._host, self._metrics, self._work, self._notes, self._request_id = host, metrics, work, notes, request_id
        self._started, self._seconds, self._most_pending = started, seconds, most_pending
        self._first: float | None = None
        self._last = 0.0
        self._sent_start = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host, work = self._host, self._work
        most = self._most_pending * len(work.sequences) if work.stream else None
        running = Running(host.thread, host.mailbox, work.groups, most)
        reply = make_reply(work, host.name, host.fingerprint, host.llm.tokenizer)
        watch = asyncio.create_task(_until_gone(receive, running))
        host.active += 1
        try:
            await running.submit(work.request.priority or 0, self._seconds)
            await self._run(running, reply, send)
        except ClientGoneError:
            self._notes["error"] = "the client went away"
            scope.setdefault("state", {})["gone"] = True
        except Exception as error:
            if not self._sent_start:
                raise  # the handlers of the app make the answer
            await self._break_off(error, send)
        finally:
            host.active -= 1
            watch.cancel()
            running.close()
            self._note(reply)

    async def _run(self, running: Running, reply: ChatReply | CompletionReply, send: Send) -> None:
        count = len(self._work.sequences)
        async for found in running.events():
            error = next((event.error for _, event in found if event.error is not None), None)
            chunks = [chunk for index, event in found for chunk in self._take(reply, index, event)]
            done = len(reply.finished) == count
            if done:
                running.close()
            if error is not None and not done and not self._sent_start:
                raise error
            if not self._work.stream:
                if done:
                    await self._send_whole(reply.body(), send)
                    return
                continue
            if done and self._work.with_usage:
                chunks.append(reply.last_chunk())
            data = b"".join(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in chunks)
            await self._send_events(data + (b"data: [DONE]\n\n" if done else b""), send, done)
            if done:
                return
            if error is not None:
                raise error

    def _take(self, reply: ChatReply | CompletionReply, index: int, event: Event) -> list[dict[str, Any]]:
        if event.piece is None:
            return []
        tokens = len(event.piece.token_ids)
        if tokens:
            self._host.rate.add(tokens)
            self._last = time.monotonic()
            if self._first is None:
                self._first = self._last
                self._metrics.first_token.observe(self._first - self._started)
        reply.counts.reused(index, event.reused)
        return reply.push(index, event.piece)

    async def _send_whole(self, body: dict[str, Any], send: Send) -> None:
        data = json.dumps(body, separators=(",", ":")).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        self._sent_start = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _send_events(self, data: bytes, send: Send, last: bool) -> None:
        if not self._sent_start:
            self._sent_start = True
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        if data or last:
            await send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _break_off(self, error: Exception, send: Send) -> None:
        """Too late for a status: the stream ends with an error object."""
        told = api_error(error, self._request_id)
        self._notes["error"] = str(error)
        log.error(
            "stream broken off",
            extra={"fields": {"request_id": self._request_id}},
            exc_info=error if told.status == 500 else None,
        )
        message: Message = {
            "type": "http.response.body",
            "body": b"data: " + json.dumps(told.body()).encode() + b"\n\n",
        }
        await send(message)

    def _note(self, reply: ChatReply | CompletionReply) -> None:
        usage, tokens = reply.counts.usage(), reply.counts.reply
        self._notes |= {
            "prompt_tokens": usage["prompt_tokens"],
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "completion_tokens": tokens,
            "stream": self._work.stream,
            "finish_reasons": sorted(set(reply.reasons.values())),
        }
        if self._first is not None:
            self._notes["first_token_seconds"] = round(self._first - self._started, 4)
            if tokens > 1:
                self._metrics.token.observe((self._last - self._first) / (tokens - 1) * len(self._work.sequences))
            self._metrics.whole.observe(time.monotonic() - self._started)


async def _until_gone(receive: Receive, running: Running) -> None:
    """The body has been read, so what comes next is that the client is gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            running.end(ClientGoneError())
            return
