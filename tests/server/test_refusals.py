"""What the addresses refuse, and that the answer names it."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from tests.openai.fakes import CONTEXT
from tests.server.bodies import CHAT, TEXT, TOOL, error
from tests.server.fakes import Live

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"temprature": 1}, "temprature: not supported. Did you mean 'temperature'?"),
    "audio": ({"audio": {"voice": "x"}}, "audio: not supported"),
    "length_penalty": ({"length_penalty": 1.5}, "length_penalty: not supported"),
    "functions": ({"functions": []}, "functions: not supported"),
    "reasoning_effort": (
        {"reasoning_effort": "low"},
        "reasoning_effort: this model's chat template has no such variable",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content.0.type",
    ),
    "call of the old form": (
        {"messages": [{"role": "assistant", "content": "a", "function_call": {"name": "b"}}]},
        "messages.0.function_call: not supported",
    ),
    "audio of a message": (
        {"messages": [{"role": "assistant", "content": "a", "audio": {"id": "b"}}]},
        "messages.0.audio: not supported",
    ),
    "variable of no template": (
        {"chat_template_kwargs": {"enable_thinkin": True}},
        "chat_template_kwargs.enable_thinkin: this model's",
    ),
    "two ends of a prompt": (
        {"continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt: expected false beside continue_final_message: true, got true",
    ),
    "prompt_logprobs of a stream": ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs: not supported together"),
    "role": ({"messages": [{"role": "usr", "content": "a"}]}, "messages.0.role: expected one of 'system'"),
    "no role": ({"messages": [{"content": "a"}]}, "messages.0.role: expected"),
    "no messages": ({"messages": []}, "messages: expected"),
    "text for a number": ({"temperature": "1"}, "temperature: expected a valid number, got '1'"),
    "bool for a number": ({"n": True}, "n: expected a valid integer, got True"),
    "range": ({"top_p": 2}, "top_p: expected None or a number from 0 to 1, got 2.0"),
    "bias": ({"logit_bias": {"500": 1}}, "logit_bias: expected token ids from 0 to 127, got 500"),
    "bias of no id": ({"logit_bias": {"x": 1}}, "logit_bias"),
    "n": ({"n": 129}, "n: expected less than or equal to 128, got 129"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs: expected logprobs: true"),
    "stream_options alone": ({"stream_options": {"include_usage": True}}, "stream_options: expected stream: true"),
    "two limits": ({"max_completion_tokens": 3}, "max_completion_tokens: expected"),
    "tool_choice alone": ({"tool_choice": "required"}, "tool_choice: expected tools"),
    "named tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice: expected one of weather",
    ),
    "strict tool": (
        {"tools": [{"type": "function", "function": {"name": "a", "strict": True, "parameters": {"if": {}}}}]},
        "tools.0.function.parameters: schema.if: expected a keyword that can be enforced",
    ),
    "tools twice": ({"tools": [TOOL, TOOL]}, "tools: expected names that differ, got 'weather' twice"),
    "bad schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"properties": {"x": {"type": "strin"}}}},
            }
        },
        "response_format.json_schema: schema.properties.x",
    ),
    "two grammars": ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_regex and guided_choice: expected one"),
    "result of no call": (
        {"messages": [{"role": "tool", "content": "1", "tool_call_id": "x"}]},
        "messages.0.tool_call_id: expected",
    ),
    "empty message": ({"messages": [{"role": "assistant"}]}, "messages.0.content: expected"),
    "empty stop": ({"stop": ""}, "stop: expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(http: httpx.Client, name: str) -> None:
    extra, message = REFUSED[name]
    response = http.post("/v1/chat/completions", json=CHAT | extra)
    assert response.status_code == 400
    told = error(response)
    assert told["message"].startswith(message), told
    assert told["type"] == "invalid_request_error" and told["param"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"best_of": 2}, "best_of: not supported"),
        ({"suffix": "x"}, "suffix: not supported"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt.1"),
        ({"prompt": [500]}, "prompt"),
        ({"messages": []}, "messages: not supported"),
        ({"prompt": [[97], "b"]}, "prompt"),
    ],
)
def test_what_completions_refuse(http: httpx.Client, extra: dict[str, Any], message: str) -> None:
    response = http.post("/v1/completions", json=TEXT | extra)
    assert response.status_code == 400 and error(response)["message"].startswith(message), response.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_long_prompt_is_told_with_both_numbers(http: httpx.Client, path: str) -> None:
    long = "x" * (CONTEXT + 5)
    body = CHAT | {"messages": [{"role": "user", "content": long}]} if "chat" in path else TEXT | {"prompt": long}
    told = error(http.post(path, json=body))
    tokens = CONTEXT + 5 + (len("<user>;<assistant>") if "chat" in path else 0)
    assert f"has {tokens} tokens" in told["message"] and f"at most {CONTEXT - 1}" in told["message"]
    # OpenAI's own words, by which clients know this error where they look at no code
    assert f"this model's maximum context length is {CONTEXT} tokens" in told["message"]
    assert told["code"] == "context_length_exceeded"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_long_prompt_among_others_is_told_as_if_it_were_alone(http: httpx.Client, place: int) -> None:
    prompts = ["a", "b", "c"]
    prompts[place] = "x" * (CONTEXT + 5)
    alone, among = (error(http.post("/v1/completions", json=TEXT | {"prompt": p})) for p in (prompts[place], prompts))
    message = alone["message"].replace("prompt: ", f"prompt.{place}: ", 1)
    assert among == alone | {"message": message, "param": f"prompt.{place}"}


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"model": "\xff\xfe"}', "application/json", 400),
        (b'{"model": "\\ud800"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
        (
            b'{"model": "fake", "messages": [{"role": "user", "content": [{"type": "text", "text": "\\ud800"}]}]}',
            "application/json",
            400,
        ),
        (b'{"model": "fake", "prompt": "a", "temperature": NaN}', "application/json", 400),
        (b"1" * 5000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"x" * 10_000_000, "application/json", 413),
    ],
)
def test_bodies_that_are_none(http: httpx.Client, content: bytes, kind: str, status: int) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        response = http.post(path, content=content, headers={"content-type": kind})
        assert response.status_code == status, response.text
        assert error(response)["message"] and error(response)["param"] in (
            None,
            "body",
            "model",
            "messages",
            "prompt",
            "temperature",
        )


@pytest.mark.parametrize("schema", ['{"\\ud800": 1}', '{"properties": {"\\ud800": {"type": "x"}}}'])
def test_half_a_surrogate_pair_in_a_schema(http: httpx.Client, schema: str) -> None:
    """The error names a place that UTF-8 cannot write, and is an answer all the same."""
    content = b'{"model": "fake", "prompt": "a", "guided_json": ' + schema.encode() + b"}"
    response = http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400 and error(response)["param"] == "guided_json"


def test_a_huge_body_is_not_even_read(live: Live) -> None:
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
        b"1000000000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2])), timeout=10) as raw:
        raw.sendall(head)
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
