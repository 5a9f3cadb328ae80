"""What tests of the addresses ask for, and how they read what comes."""

from __future__ import annotations

import json
from typing import Any

import httpx

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0}
TEXT = {"model": "fake", "prompt": "once", "max_tokens": 12, "temperature": 0}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Those of a stream, which is whole."""
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    *lines, end = response.text.strip().split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def error(response: httpx.Response) -> dict[str, Any]:
    """The OpenAI error object."""
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"] and response.headers["x-request-id"]
    return dict(body["error"])
