"""From messages and tools to a prompt, by templates that know tools and by those that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.openai.fakes import TOOL_TEMPLATE, make_llm
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.openai.conversation import prompt_text
from tinyllm.openai.requests import parse_body
from tinyllm.openai.schema import ChatRequest

USER = {"role": "user", "content": "ask"}
TOOL = {"type": "function", "function": {"name": "weather"}}


def calls(*arguments: str) -> dict[str, Any]:
    """A message of the model that calls a tool once for each of these."""
    return {
        "role": "assistant",
        "tool_calls": [
            {"id": f"call_{number}", "type": "function", "function": {"name": "weather", "arguments": text}}
            for number, text in enumerate(arguments)
        ],
    }


def result(number: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": f"rain {number}"}


def prompt(*messages: dict[str, Any], tools: bool = False, **model: Any) -> str:
    body = {"model": "fake", "messages": list(messages), "tools": [TOOL] if tools else None}
    request = parse_body(ChatRequest, body)
    return prompt_text(make_llm(**model), request.messages, request.tools or [])


def test_results_of_several_calls_are_one_message() -> None:
    """So that roles take turns, as templates without tools demand."""
    called = calls('{"city": "Rome"}', '{"city": "Oslo"}')
    text = prompt(USER, called, result(0), result(1), USER, calls("{}"), result(0))
    assert [part.partition(">")[0] for part in text.split(";")] == [
        *("<user", "<assistant", "<user", "<user", "<assistant", "<user", "<assistant")
    ]
    joined = "\n".join(f"<tool_response>\nrain {number}\n</tool_response>" for number in (0, 1))
    assert f"<user>{joined};" in text
    for city in ("Rome", "Oslo"):
        assert f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' in text


@pytest.mark.parametrize("system", [[], [{"role": "developer", "content": "be kind"}]])
def test_a_template_without_tools_gets_them_as_its_system_message(system: list[dict[str, Any]]) -> None:
    """After the one that is there."""
    text = prompt(*system, USER, tools=True)
    assert text.startswith("<system>be kind\n\n# Tools" if system else "<system># Tools")
    assert text.count("<system>") == 1 and json.dumps(TOOL) in text


def test_a_template_with_tools_gets_arguments_as_objects() -> None:
    assert "CALL weather Rome" in prompt(USER, calls('{"city": "Rome"}'), template=TOOL_TEMPLATE)


@pytest.mark.parametrize("template", [None, TOOL_TEMPLATE])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("{", "JSON"), ("[1]", "a JSON object"), ("[" * 9999, "lists and objects at most 100 deep")],
)
def test_arguments_that_are_no_object(arguments: str, expected: str, template: str | None) -> None:
    place = r"messages.1: tool_calls.0.function.arguments"
    with pytest.raises(InvalidInputError, match=f"{place}: expected {expected}, got "):
        prompt(USER, calls(arguments), **({"template": template} if template else {}))


def test_a_model_without_a_template() -> None:
    with pytest.raises(UnsupportedError, match="messages: this model has no chat template; use /v1/completions"):
        prompt(USER, template=None)
