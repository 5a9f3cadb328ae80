"""Tools as `openai`'s own helpers send and read them, with a model that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest

from tests.openai.fakes import TEMPLATE, Program
from tests.server.fakes import make_model, serving
from tinyllm.engine.grammar.call_forms import FORMS

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")


class Weather(pydantic.BaseModel):
    """Tells the weather."""

    city: Literal["Rome", "Oslo"]
    unit: Literal["C", "F"] | None


class Place(pydantic.BaseModel):
    name: Literal["Weather", "Rome"]
    large: bool


def called(city: str, key: str = "arguments") -> str:
    return json.dumps({"name": "Weather", key: {"city": city, "unit": None}})


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


SAYS = {
    "rome": tagged(called("Rome")),
    "paris": "Let me see." + tagged(called("Paris")),
    "rm": tagged(json.dumps({"name": "rm", "arguments": {}})),
    "untagged": called("Oslo", "parameters"),
    "untagged paris": called("Paris", "parameters"),
    "both": f"{tagged(called('Rome'))}\n{tagged(called('Oslo'))}",
    "list": tagged(f"[{called('Rome')}, {called('Oslo')}]"),
    "text": "It rains.",
    "place": '{"name":"Weather","large":true}',
}
TOOL = openai.pydantic_function_tool(Weather)
LOOSE: Any = {"type": "function", "function": {"name": "Weather", "parameters": {"unevaluatedProperties": {}}}}
NOW = {"name": "now", "strict": True}
NAMED = {"type": "function", "function": {"name": "Weather"}}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with serving(make_model(Program(says={f"{key};<assistant>": reply for key, reply in SAYS.items()}))) as live:
        yield openai.OpenAI(base_url=f"{live.url}/v1", api_key="k", max_retries=0, timeout=20)
        assert live.settled()


def ask(client: Any, text: str, stream: bool, **extra: Any) -> Any:
    """The choice that the client parsed."""
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 300}
    body |= {"tools": [TOOL]} | extra
    if not stream:
        return client.chat.completions.parse(**body).choices[0]
    with client.chat.completions.stream(**body) as events:
        return events.get_final_completion().choices[0]


def calls_of(choice: Any) -> list[Any]:
    return [call.function.parsed_arguments for call in choice.message.tool_calls or ()]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [None, "auto", "required", NAMED])
@pytest.mark.parametrize("text", ["rome", "paris", "rm", "untagged", "untagged paris"])
def test_a_call_s_arguments_are_those_of_the_model_class(client: Any, text: str, choice: Any, stream: bool) -> None:
    extra = {} if choice is None else {"tool_choice": choice}
    found = ask(client, text, stream, parallel_tool_calls=False, **extra)
    (arguments,) = calls_of(found)
    assert isinstance(arguments, Weather) and found.finish_reason == "tool_calls"
    assert found.message.content == ("Let me see." if text == "paris" and choice in (None, "auto") else None)
    if text in ("rome", "untagged"):
        assert arguments == Weather(city="Rome" if text == "rome" else "Oslo", unit=None)


@pytest.mark.parametrize("form", ["mistral_list", "qwen_xml"])
def test_calls_are_held_in_the_form_that_the_template_shows(form: str) -> None:
    def said(city: str) -> str:
        if form == "mistral_list":
            return f"[TOOL_CALLS][{called(city)}]"
        keys = f"<parameter=city>\n{city}\n</parameter>\n<parameter=unit>\nnull\n</parameter>\n"
        return tagged(f"<function=Weather>\n{keys}</function>")

    says = {"rome": said("Rome"), "paris": said("Paris"), "text": "It rains."}
    program = Program(says={f"{key};<assistant>": reply for key, reply in says.items()})
    template = TEMPLATE + "{# " + " ".join(FORMS[form].shows) + " #}"
    with serving(make_model(program, template)) as live:
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="k", max_retries=0, timeout=20)
        for stream in (False, True):
            for choice in ("auto", "required"):
                found = ask(client, "rome", stream, tool_choice=choice)
                assert calls_of(found) == [Weather(city="Rome", unit=None)] and not found.message.content
                assert isinstance(calls_of(ask(client, "paris", stream, tool_choice=choice))[0], Weather)
            assert ask(client, "text", stream).message.content == "It rains."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_model_may_answer_in_text(client: Any, choice: str, stream: bool) -> None:
    found = ask(client, "text", stream, tool_choice=choice)
    assert (found.message.content, calls_of(found), found.finish_reason) == ("It rains.", [], "stop")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
@pytest.mark.parametrize("strict", [False, True])
def test_parallel_calls(client: Any, strict: bool, choice: Any, stream: bool) -> None:
    """As many as the model makes, or one. One that has to call makes more only where that is said; of a named tool it
    makes one."""
    tools = [TOOL | {"function": TOOL["function"] | {"strict": strict}}]
    forms = ["both", "list"] if choice == "auto" and not strict else ["both"]  # a grammar lets a tag begin one call
    for text in forms:
        for several in (True, None, False):
            body = {"messages": [{"role": "user", "content": text}], "tools": tools, "tool_choice": choice}
            body |= {} if several is None else {"parallel_tool_calls": several}
            with client.chat.completions.stream(model="fake", temperature=0, max_tokens=250, **body) as events:
                found = events.get_final_completion() if stream else None
            found = (found or client.chat.completions.create(model="fake", temperature=0, **body)).choices[0]
            assert found.finish_reason == "tool_calls" and found.message.content is None
            one = several is False or choice == NAMED or (choice == "required" and several is None)
            assert len(found.message.tool_calls) == (1 if one else 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_format_beside_tools_is_that_of_the_text(client: Any, stream: bool) -> None:
    def format_of(text: str, **extra: Any) -> Any:
        return ask(client, text, stream, response_format=Place, parallel_tool_calls=False, **extra)

    assert format_of("place").message.parsed == Place(name="Weather", large=True)
    bent = format_of("text")  # which is neither
    assert isinstance(bent.message.parsed or calls_of(bent)[0], (Place, Weather))
    for text in ("rome", "untagged"):
        assert isinstance(calls_of(format_of(text))[0], Weather)
    assert isinstance(calls_of(format_of("place", tool_choice="required"))[0], Weather)
    assert format_of("rome", tool_choice="none").message.parsed is not None


def test_guided_text_beside_tools(client: Any) -> None:
    def message(text: str) -> Any:
        body = {"messages": [{"role": "user", "content": text}], "tools": [TOOL], "temperature": 0}
        return (
            client.chat.completions.create(model="fake", extra_body={"guided_choice": ["It snows.", "It is."]}, **body)
            .choices[0]
            .message
        )

    assert message("text").content in ("It snows.", "It is.") and not message("text").tool_calls
    assert message("rome").content is None and len(message("rome").tool_calls) == 1


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
def test_a_strict_schema_that_cannot_be_held_is_refused_with_its_place(client: Any, choice: Any) -> None:
    strict = {"type": "function", "function": LOOSE["function"] | {"strict": True}}
    body = {"messages": [{"role": "user", "content": "text"}], "tools": [TOOL | {"function": NOW}, strict]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="fake", tool_choice=choice, **body)
    assert "tools.1.function.parameters: schema.unevaluatedProperties: expected" in str(caught.value)
    assert caught.value.param == "tools" and caught.value.code == "invalid_grammar"
    strict["function"]["parameters"] = {"properties": {"a": {"pattern": "(?=a)"}}}
    with pytest.raises(
        openai.BadRequestError, match=r"tools.1.function.parameters: schema.properties.a: .*look-around"
    ):
        client.chat.completions.create(model="fake", tool_choice=choice, **body)


def test_a_schema_that_nobody_wants_held_is_not_read(client: Any) -> None:
    plain = client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "paris"}], temperature=0, tools=[LOOSE]
    )
    assert json.loads(plain.choices[0].message.tool_calls[0].function.arguments)["city"] == "Paris"


def test_a_tool_without_parameters_takes_none(client: Any) -> None:
    tools = [{"type": "function", "function": {"name": "Weather", "strict": True}}]
    found = ask(client, "rome", False, tools=tools, parallel_tool_calls=False)
    assert json.loads(found.message.tool_calls[0].function.arguments) == {}
