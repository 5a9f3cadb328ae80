"""The `openai` package: chat, a stream, parsed objects, tools, and an address that there is not."""

from __future__ import annotations

from typing import Literal

from openai import NotFoundError, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.clients.checks import main

CAPITAL = "What is the capital of France? Answer in one sentence."


class Place(BaseModel):
    capital: Literal["Paris", "Rome"]
    large: bool


class GetWeather(BaseModel):
    """Tells the weather of a city."""

    city: str


def chat(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    messages = [{"role": "user", "content": CAPITAL}]
    reply = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24)
    text = reply.choices[0].message.content
    assert "Paris" in text and reply.choices[0].finish_reason == "stop", reply
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0, reply.usage


def stream(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    asked = {"model": model, "messages": [{"role": "user", "content": CAPITAL}], "temperature": 0, "max_tokens": 24}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    whole = client.chat.completions.create(**asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, f"{text!r} is not {whole.choices[0].message.content!r}"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in reasons if reason] == [reasons[-1]] == ["stop"], reasons
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, chunks[-1]


def chat_goes_on(base_url: str, model: str) -> None:
    """The reply is put back as it came, and as `model_dump()` gives it."""
    client = OpenAI(base_url=base_url, api_key="any")
    messages = [{"role": "user", "content": CAPITAL}]
    asked = {"model": model, "temperature": 0, "max_tokens": 24}
    first = client.chat.completions.create(**asked, messages=messages).choices[0].message
    replies = [
        client.chat.completions.create(**asked, messages=[*messages, said, {"role": "user", "content": "And Italy?"}])
        for said in (first, first.model_dump(), {"role": "assistant", "content": first.content})
    ]
    assert len({reply.choices[0].message.content for reply in replies}) == 1, replies
    assert len({reply.usage.prompt_tokens for reply in replies}) == 1, replies


def parse(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    reply = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": CAPITAL}],
        response_format=Place,
        temperature=0,
        max_tokens=80,
    )
    place = reply.choices[0].message.parsed
    assert isinstance(place, Place) and reply.choices[0].finish_reason == "stop", reply


def parse_stream(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    with client.chat.completions.stream(
        model=model,
        messages=[{"role": "user", "content": CAPITAL}],
        response_format=Place,
        temperature=0,
        max_tokens=80,
    ) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Place), final
    assert {"content.delta", "content.done"} <= kinds, kinds


def tools(base_url: str, model: str) -> None:
    """A whole turn: the call, its result, the answer."""
    client = OpenAI(base_url=base_url, api_key="any")
    tools = [pydantic_function_tool(GetWeather, name="get_weather")]
    asked = {"model": model, "tools": tools, "temperature": 0, "max_tokens": 60}
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    reply = client.chat.completions.create(
        **asked, messages=messages, tool_choice="required", parallel_tool_calls=False
    )
    message = reply.choices[0].message
    assert reply.choices[0].finish_reason == "tool_calls" and len(message.tool_calls) == 1, reply
    call = message.tool_calls[0]
    assert call.function.name == "get_weather", call
    GetWeather.model_validate_json(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain, 4 degrees"}
    answers = [
        client.chat.completions.create(**asked, messages=[*messages, said, result])
        for said in (message, message.model_dump())
    ]
    assert all(answer.choices[0].finish_reason in ("stop", "length", "tool_calls") for answer in answers), answers
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content, answers


def tools_stream(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "tools": [pydantic_function_tool(GetWeather, name="get_weather")],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "temperature": 0,
        "max_tokens": 60,
    }
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    call = final.choices[0].message.tool_calls[0].function
    assert isinstance(call.parsed_arguments, GetWeather), call
    assert call.arguments == whole.choices[0].message.tool_calls[0].function.arguments, call
    assert "tool_calls.function.arguments.delta" in kinds, kinds


def tools_with_parse(base_url: str, model: str) -> None:
    """`parse` with tools and a format for the answer, as agents ask: the model calls, or answers in the format."""
    client = OpenAI(base_url=base_url, api_key="any")
    reply = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": CAPITAL}],
        tools=[pydantic_function_tool(GetWeather, name="get_weather")],
        response_format=Place,
        temperature=0,
        max_tokens=80,
    )
    message = reply.choices[0].message
    called = [call.function.parsed_arguments for call in message.tool_calls or ()]
    assert isinstance(message.parsed, Place) if not called else all(isinstance(c, GetWeather) for c in called), reply


def completions(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    asked = {"model": model, "prompt": "One, two, three,", "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**asked, logprobs=2)
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text, chunks
    assert "".join(whole.choices[0].logprobs.tokens) == whole.choices[0].text, whole


def models(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    assert [entry.id for entry in client.models.list()] == [model]


def embeddings_are_refused(base_url: str, model: str) -> None:
    client = OpenAI(base_url=base_url, api_key="any")
    try:
        client.embeddings.create(model=model, input="a text")
    except NotFoundError as error:
        assert "/v1/embeddings" in str(error), error
    else:
        raise AssertionError("expected embeddings to be refused, got some")


CHECKS = [
    chat,
    stream,
    chat_goes_on,
    parse,
    parse_stream,
    tools,
    tools_stream,
    tools_with_parse,
    completions,
    models,
    embeddings_are_refused,
]

if __name__ == "__main__":
    main(CHECKS)
