"""Replies: the chunks of a stream together say what the body says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.openai.fakes import make_llm
from tests.openai.test_requests import CHAT, TEXT
from tinyllm.engine.sequence import Piece
from tinyllm.openai.replies import Reply, make_reply
from tinyllm.openai.requests import parse_body, prepare_chat, prepare_completion
from tinyllm.openai.schema import ChatRequest, CompletionRequest

TOOL = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>{"name": "now", "arguments": {"a": 1}}</tool_call>'


def reply_to(body: dict[str, Any]) -> Reply:
    llm = make_llm()
    if "messages" in body:
        prepared = prepare_chat(llm, parse_body(ChatRequest, body))
    else:
        prepared = prepare_completion(llm, parse_body(CompletionRequest, body))
    return make_reply(prepared, "fake", "fp", llm.tokenizer)


def push(reply: Reply, index: int, text: str, reason: str = "stop") -> list[dict[str, Any]]:
    """A reply letter by letter; its chunks."""
    pieces = [Piece(letter, (ord(letter),)) for letter in text] + [Piece("", (0,), finish_reason=reason)]
    return [chunk for piece in pieces for chunk in reply.push(index, piece, 3)]


@pytest.mark.parametrize("body", [CHAT | {"n": 2}, TEXT | {"n": 2}, TEXT | {"prompt": ["a", "b"], "echo": True}])
def test_chunks_say_what_the_body_says(body: dict[str, Any]) -> None:
    reply, texts = reply_to(body), ["one", "another"]
    streamed = ["", ""]
    for index in (1, 0):
        for chunk in push(reply, index, texts[index]):
            (choice,) = chunk["choices"]
            assert choice["index"] == index and "usage" not in chunk
            streamed[index] += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
        assert choice["finish_reason"] == "stop"
    whole = reply.body()
    said = [c["message"]["content"] if "message" in c else c["text"] for c in whole["choices"]]
    assert said == streamed == ([f"{p}{t}" for p, t in zip("ab", texts, strict=True)] if "echo" in body else texts)
    assert reply.finished == {0, 1} and {c["finish_reason"] for c in whole["choices"]} == {"stop"}


def test_tokens_are_counted_once() -> None:
    """The prompt once for all its choices, and what was cached when the first of them began."""
    reply = reply_to(TEXT | {"prompt": ["ab", "cde"], "n": 2})
    for index in range(4):
        push(reply, index, "xy")
    push(reply, 0, "late, and not counted")
    assert reply.body()["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 12,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 6},
    }


def test_a_call_ends_the_choice_that_wants_one() -> None:
    """Even though the engine would go on; the body has the call as the chunks have it."""
    reply = reply_to(CHAT | {"tools": [TOOL], "parallel_tool_calls": False})
    chunks = push(reply, 0, f"Well. {CALL}{CALL}")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    parts = [part for delta in deltas for part in delta.get("tool_calls", [])]
    assert "".join(part["function"].get("arguments", "") for part in parts) == '{"a": 1}'
    (call,) = reply.body()["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": '{"a": 1}'} and call["id"] == parts[0]["id"]
    assert reply.finish_reasons == {0: "tool_calls"} and chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_usage_has_a_chunk_of_its_own_where_it_is_wanted() -> None:
    reply = reply_to(TEXT | {"stream": True, "stream_options": {"include_usage": True}})
    assert all(chunk["usage"] is None for chunk in push(reply, 0, "abc"))
    last = reply.usage_chunk()
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 4
