"""Requests that are small to send and would like to cost much, kind by kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.engine.grammar.hostile import intersections

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
        harmless: a request for as many replies without the hostile part; None: it would be refused, or cost nothing.
    """

    name: str
    make: Callable[[int], Request]
    clients: int
    harmless: Callable[[int], Request] | None = None


def chat(**fields: Any) -> Request:
    """A short conversation with other fields."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 64} | fields
    return Request(CHAT, json.dumps(body).encode())


def stops(number: int) -> list[str]:
    """As many stop strings as a request may have, as long as they may be."""
    return [chr(ord("0") + place) * 1019 + f"{number:05}" for place in range(64)]


def read(number: int, **fields: Any) -> Request:
    """A request to read a long prompt that nobody sent before."""
    body = {"model": MODEL, "prompt": f"{number}: " + "a b c d " * 400, "max_tokens": 1} | fields
    return Request(COMPLETIONS, json.dumps(body).encode())


def _always(path: str, fields: str) -> Callable[[int], Request]:
    made = Request(path, f'{{"model": "{MODEL}", {fields}}}'.encode())
    return lambda number: made


BIASES = {str(token): 1 for token in range(4096)}
DEEP = 200_000

KINDS = (
    Kind("grammars", lambda n: chat(guided_json=intersections() | {"title": str(n)}, max_tokens=5), 8),
    Kind("regexes", lambda n: chat(guided_regex=f"a{{1000000}}{n}"), 4),
    Kind("slow-masks", lambda n: chat(guided_regex="a{60000}", n=16), 1, lambda n: chat(n=16)),
    Kind("stop-strings", lambda n: chat(stop=stops(n), n=8), 1, lambda n: chat(n=8)),
    Kind("long-stop-strings", _always(CHAT, f'"messages": [], "stop": ["{"x" * 1_000_000}"]'), 4),
    Kind(
        "biases",
        lambda n: chat(logit_bias=BIASES, n=128, seed=n, max_tokens=8),
        1,
        lambda n: chat(n=128, seed=n, max_tokens=8),
    ),
    Kind("many-values", _always(CHAT, f'"messages": [{"1," * 999_999}1]'), 3),
    Kind("floats", _always(COMPLETIONS, f'"prompt": {[1.5] * 100_000}'), 4),
    Kind("long-texts", _always(TOKENIZE, f'"prompt": "{"a b " * 990_000}"'), 3),
    Kind("nested", _always(CHAT, f'"messages": {"[" * DEEP}{"]" * DEEP}'), 4),
    Kind("prompt-logprobs", lambda n: read(n, prompt_logprobs=20), 2, read),
    Kind("priorities", lambda n: chat(priority=-100, max_tokens=16), 80, lambda n: chat(max_tokens=16)),
)
