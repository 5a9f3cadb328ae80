"""An OpenAI server that answers after known delays, and misbehaves where it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSAL = {"error": {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": None}}


@dataclass
class Manners:
    """How the server behaves. first, gap: seconds before the first chunk, and between chunks; per_chunk: tokens of a
    chunk.

    faults: what goes wrong with the request that comes as number k (warm-ups count): a status, or `drop`, `broken`,
    `error`, `plain`.
    """

    first: float = 0.0
    gap: float = 0.0
    tokens: int = 4
    per_chunk: int = 1
    usage: bool = True
    takes_stream_options: bool = True
    done: bool = True
    models: Any = field(default_factory=lambda: {"object": "list", "data": [{"id": "first"}, {"id": "second"}]})
    faults: dict[int, int | str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    running: int = 0
    most: int = 0
    lock: Any = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    manners: Manners

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._json(200, self.manners.models)

    def do_POST(self) -> None:
        manners = self.manners
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with manners.lock:
            number = len(manners.bodies)
            manners.bodies.append({"path": self.path, **body})
            manners.keys.append(self.headers["Authorization"])
            manners.running += 1
            manners.most = max(manners.most, manners.running)
        try:
            self._answer(body, manners.faults.get(number))
        finally:
            with manners.lock:
                manners.running -= 1

    def _answer(self, body: dict[str, Any], fault: int | str | None) -> None:
        manners = self.manners
        if "stream_options" in body and not manners.takes_stream_options:
            self._json(400, {"error": {"message": "stream_options: not supported"}})
        elif fault == "drop":
            self.close_connection = True
        elif fault == "plain":
            self._json(200, {"choices": []})
        elif isinstance(fault, int):
            self._json(fault, REFUSAL)
        else:
            self._stream(body, fault)

    def _stream(self, body: dict[str, Any], fault: str | None) -> None:
        manners = self.manners
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        chat = "messages" in body
        if chat:
            self._event(
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
            )
        time.sleep(manners.first)
        for number in range(manners.tokens // manners.per_chunk):
            if number:
                time.sleep(manners.gap)
            if fault == "broken" and number:
                return
            if fault == "error" and number:
                self._event({"error": {"message": "the kernel failed", "code": 500}})
                return
            text = "w\u2028 " * manners.per_chunk
            self._event(
                {
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": None,
                            **({"delta": {"content": text}} if chat else {"text": text}),
                        }
                    ]
                }
            )
        self._event({"choices": [{"index": 0, "finish_reason": "length", **({"delta": {}} if chat else {"text": ""})}]})
        if manners.usage and body.get("stream_options", {}).get("include_usage"):
            counts = {
                "prompt_tokens": 10,
                "completion_tokens": manners.tokens,
                "prompt_tokens_details": {"cached_tokens": 6},
            }
            self._event({"choices": [], "usage": counts})
        if manners.done:
            self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b": a comment\r\ndata: " + json.dumps(value, ensure_ascii=False).encode() + b"\r\n\r\n")
        self.wfile.flush()

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def serving(manners: Manners) -> Iterator[str]:
    """Its address, while it runs."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"manners": manners}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
