"""Batch files that tests write and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def request(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    """A request whose prompt is its id."""
    prompt: dict[str, Any] = (
        {"messages": [{"role": "user", "content": custom_id}]} if url == CHAT else {"prompt": custom_id}
    )
    body = {"model": "fake", **prompt, "max_tokens": 6, "temperature": 0} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(path: Path, *lines: Any) -> Path:
    """Objects as JSON, bytes as they are."""
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Every line has to be whole."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def result(custom_id: str | None, status: int = 200, **more: Any) -> dict[str, Any]:
    """As a batch writes it."""
    response = {"status_code": status, "request_id": "req_1", "body": {}}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": response, "error": None} | more
