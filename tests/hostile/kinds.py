"""Requests that are small to send and would like to cost much, kind by kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MODEL = "model"
"""The name under which the server has to serve."""
CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"


@dataclass(frozen=True)
class Request:
    """What a client sends: the body is made ahead, so that the client itself costs little."""

    path: str
    body: bytes


@dataclass(frozen=True)
class Kind:
    """Hostile requests of one kind.

    Args:
        make: the request with a number; no two are alike where the server would know the second.
        clients: so many are sent at a time, each client going on when it is answered.
        harmless: what it would cost to ask for the same replies without the hostile part; None: nothing.
    """

    name: str
    make: Callable[[int], Request]
    clients: int
    harmless: Callable[[int], Request] | None = None


def chat(**fields: Any) -> Request:
    """A short conversation with other fields."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 64} | fields
    return Request(CHAT, json.dumps(body).encode())


def intersections(number: int) -> dict[str, Any]:
    """A schema of a kilobyte, of which each pattern makes the work of compiling four times as much."""
    patterns = [f".*a.{{{number + place}}}b.*" for place in range(1, 23)]
    return {"allOf": [{"type": "string", "pattern": pattern} for pattern in patterns]}


def stops(number: int) -> list[str]:
    """As many stop strings as a request may have, as long as they may be, which differ in their ends alone."""
    return [chr(ord("0") + place) * 1019 + f"{number:05}" for place in range(64)]


def read(number: int, **fields: Any) -> Request:
    """A long prompt that nobody sent before."""
    body = {"model": MODEL, "prompt": f"{number}: " + "a b c d " * 400, "max_tokens": 1} | fields
    return Request(COMPLETIONS, json.dumps(body).encode())


def _always(path: str, fields: str) -> Callable[[int], Request]:
    made = Request(path, f'{{"model": "{MODEL}", {fields}}}'.encode())
    return lambda number: made


BIASES = {str(token): 1 for token in range(4096)}
DEEP = 200_000

KINDS = (
    Kind("grammars", lambda n: chat(guided_json=intersections(n), max_tokens=5), 8),
    Kind("regexes", lambda n: chat(guided_regex=f"a{{{1_000_000 + n}}}"), 4),
    Kind("stop strings", lambda n: chat(stop=stops(n), n=8), 1, lambda n: chat(n=8)),
    Kind("longer stop strings", _always(CHAT, f'"messages": [], "stop": ["{"x" * 1_000_000}"]'), 4),
    Kind(
        "biases",
        lambda n: chat(logit_bias=BIASES, n=128, seed=n, max_tokens=8),
        1,
        lambda n: chat(n=128, seed=n, max_tokens=8),
    ),
    Kind("messages that are none", _always(CHAT, f'"messages": [{"1," * 999_999}1]'), 3),
    Kind("prompts of floats", _always(COMPLETIONS, f'"prompt": {[1.5] * 100_000}'), 4),
    Kind("texts of 4 MB", _always(TOKENIZE, f'"prompt": "{"a b " * 990_000}"'), 3),
    Kind("nested lists", _always(CHAT, f'"messages": {"[" * DEEP}{"]" * DEEP}'), 4),
    Kind("log probabilities", lambda n: read(n, prompt_logprobs=20), 2, read),
    Kind("priorities", lambda n: chat(priority=-100, max_tokens=16), 80, lambda n: chat(max_tokens=16)),
)
