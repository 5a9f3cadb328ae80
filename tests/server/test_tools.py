"""Tools and structured replies, through the whole server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.openai.fakes import TOOL_TEMPLATE, Program
from tests.server.bodies import chunks, error
from tests.server.fakes import make_model, serving

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
SAYS = {
    "ask;<assistant>": f"Well.\n{CALL}\n{CALL}",
    "plain;<assistant>": "no call here",
    "</tool_response>;<assistant>": "It rains.",
}
HISTORY = [
    {"role": "user", "content": "ask"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


def ask(text: str, **extra: Any) -> dict[str, Any]:
    return {
        "model": "fake",
        "messages": [{"role": "user", "content": text}],
        "tools": TOOLS,
        "temperature": 0,
        "max_tokens": 200,
    } | extra


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with serving(make_model(Program(says=SAYS))) as live, httpx.Client(base_url=live.url, timeout=20) as client:
        yield client
        assert live.settled()


def test_calls_are_told_apart_from_text(http: httpx.Client) -> None:
    choice = http.post("/v1/chat/completions", json=ask("ask")).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "Well."
    calls = choice["message"]["tool_calls"]
    assert [(c["type"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
        ("function", "weather", {"city": "Rome"})
    ] * 2
    assert len({c["id"] for c in calls}) == 2


def test_calls_are_streamed(http: httpx.Client) -> None:
    told = [c["choices"][0] for c in chunks(http.post("/v1/chat/completions", json=ask("ask", stream=True)))]
    assert told[-1]["finish_reason"] == "tool_calls" and told[-1]["delta"] == {}
    assert "".join(c["delta"].get("content") or "" for c in told) == "Well."
    bits = [b for c in told for b in c["delta"].get("tool_calls", [])]
    for index in (0, 1):
        first, *rest = [b for b in bits if b["index"] == index]
        assert first["id"] and first["type"] == "function" and first["function"]["name"] == "weather"
        assert len(rest) > 5 and all("id" not in b and "name" not in b["function"] for b in rest)
        assert json.loads("".join(b["function"]["arguments"] for b in (first, *rest))) == {"city": "Rome"}


def test_one_call_if_no_more_are_wanted(http: httpx.Client) -> None:
    for stream in (False, True):
        response = http.post("/v1/chat/completions", json=ask("ask", stream=stream, parallel_tool_calls=False))
        if stream:
            ids = {b["index"] for c in chunks(response) for b in c["choices"][0]["delta"].get("tool_calls", [])}
            assert ids == {0}
        else:
            assert len(response.json()["choices"][0]["message"]["tool_calls"]) == 1


def test_text_is_text(http: httpx.Client) -> None:
    choice = http.post("/v1/chat/completions", json=ask("plain")).json()["choices"][0]
    assert (
        choice["message"]["content"] == "no call here"
        and "tool_calls" not in choice["message"]
        and choice["finish_reason"] == "stop"
    )
    told = http.post("/v1/chat/completions", json=ask("ask", tool_choice="none")).json()["choices"][0]
    assert told["message"]["content"].endswith(CALL) and told["finish_reason"] == "stop"


def test_fields_about_tools_ask_for_nothing_where_there_are_none(http: httpx.Client) -> None:
    body = ask("plain", tools=None)
    for extra in ({"tool_choice": "auto"}, {"tool_choice": "none"}, {"parallel_tool_calls": False}, {"tools": []}):
        choice = http.post("/v1/chat/completions", json=body | extra).json()["choices"][0]
        assert choice["message"]["content"] == "no call here"
    response = http.post("/v1/chat/completions", json=body | {"tool_choice": "required"})
    assert response.status_code == 400 and error(response)["param"] == "tool_choice"


def test_results_of_tools_reach_a_model_whose_template_knows_none(http: httpx.Client) -> None:
    choice = http.post("/v1/chat/completions", json=ask("", messages=HISTORY)).json()["choices"][0]
    assert choice["message"]["content"] == "It rains."
    ids = http.post("/tokenize", json={"messages": HISTORY, "tools": TOOLS}).json()["tokens"]
    prompt = http.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert prompt.startswith("<system># Tools") and '"description": "Tells the weather."' in prompt
    assert f"<assistant>{CALL};<user><tool_response>\nrain\n</tool_response>;" in prompt


def test_a_template_with_tools_gets_them() -> None:
    with serving(make_model(template=TOOL_TEMPLATE)) as live:
        strict = [{"type": "function", "function": {"name": "now", "strict": True}}]  # the model is not told of that
        told = [
            httpx.post(f"{live.url}/tokenize", json={"messages": HISTORY, "tools": tools}).json()["tokens"]
            for tools in (TOOLS[1:], strict)
        ]
        assert told[0] == told[1]
        prompt = "".join(map(chr, told[0]))
        wanted = (
            'TOOLS [{"type": "function", "function": {"name": "now"}}];<user>ask;<assistant>CALL weather '
            "Rome;<tool>rain;<assistant>"
        )
        assert prompt == wanted


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_is_asked_for_comes(http: httpx.Client, choice: Any) -> None:
    """Whatever the model would rather say; the arguments are as the schema wants them."""
    pytest.importorskip("llguidance")
    tools = TOOLS[:1] if choice == "required" else TOOLS
    for stream in (False, True):
        response = http.post("/v1/chat/completions", json=ask("plain", tools=tools, tool_choice=choice, stream=stream))
        if stream:
            told = [c["choices"][0] for c in chunks(response)]
            bits = [b for c in told for b in c["delta"].get("tool_calls", [])]
            name, text = bits[0]["function"]["name"], "".join(b["function"]["arguments"] for b in bits)
            reason = told[-1]["finish_reason"]
        else:
            found = response.json()["choices"][0]
            name, text = (found["message"]["tool_calls"][0]["function"][key] for key in ("name", "arguments"))
            reason = found["finish_reason"]
            assert found["message"]["content"] is None
        assert (name, reason) == ("weather", "tool_calls") and json.loads(text)["city"] in ("Rome", "Oslo")


def test_structured_replies(http: httpx.Client) -> None:
    pytest.importorskip("llguidance")

    def say(**extra: Any) -> str:
        response = http.post("/v1/chat/completions", json=ask("plain", tools=None, **extra))
        return str(response.json()["choices"][0]["message"]["content"])

    schema = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    assert json.loads(say(response_format=schema))["city"] in ("Rome", "Oslo")
    assert json.loads(say(guided_json=SCHEMA))["city"] in ("Rome", "Oslo")
    assert say(guided_choice=["yes", "no"]) in ("yes", "no")
    assert say(guided_regex="[0-9]{3}x").endswith("x")
    assert say(response_format={"type": "json_object"}, max_tokens=40).lstrip().startswith("{")


@pytest.mark.parametrize(
    ("extra", "place"),
    [
        ({"guided_regex": "a(b"}, "position"),
        ({"guided_json": {"type": "strin"}}, "schema.type"),
        ({"guided_json": {"type": "string", "pattern": "a(b"}}, "schema"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"properties": {"q": {"minimum": "x"}}}},
                }
            },
            ".q",
        ),
    ],
)
def test_bad_grammars_are_told_with_the_place(http: httpx.Client, extra: dict[str, Any], place: str) -> None:
    pytest.importorskip("llguidance")
    response = http.post("/v1/chat/completions", json=ask("plain", tools=None, **extra))
    told = error(response)
    assert response.status_code == 400 and place in told["message"], response.text
    assert told["param"] in extra and told["message"].startswith(told["param"]) and told["code"] == "invalid_grammar"


def test_a_call_that_cannot_be_enforced_is_refused(http: httpx.Client) -> None:
    bad = [
        {
            "type": "function",
            "function": {"name": "a", "parameters": {"type": "object", "unevaluatedProperties": False}},
        }
    ]
    response = http.post("/v1/chat/completions", json=ask("plain", tools=bad, tool_choice="required"))
    assert response.status_code == 400 and error(response)["message"].startswith("tools.0.function.parameters: ")


def test_a_model_without_a_template() -> None:
    with serving(make_model(template=None)) as live:
        response = httpx.post(f"{live.url}/v1/chat/completions", json=ask("a", tools=None))
        assert response.status_code == 422 and "no chat template" in error(response)["message"]
