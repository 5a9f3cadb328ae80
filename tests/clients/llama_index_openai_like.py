"""`llama-index-llms-openai-like`: complete, chat, both streamed, structured prediction, tools."""

from __future__ import annotations

import asyncio
from typing import Literal

from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.clients.checks import is_weather_call, main

CAPITAL = "What is the capital of France? Answer in one sentence."


class Place(BaseModel):
    """A place."""

    capital: Literal["Paris", "Rome"]
    large: bool


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"rain in {city}"


WEATHER = FunctionTool.from_defaults(get_weather)


def chat_model(base_url: str, model: str) -> OpenAILike:
    return OpenAILike(
        api_base=base_url,
        api_key="any",
        model=model,
        context_window=8192,
        is_chat_model=True,
        is_function_calling_model=True,
        temperature=0,
        max_tokens=80,
    )


def complete(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    whole = llm.complete(CAPITAL).text
    assert "Paris" in whole, whole
    *_, last = llm.stream_complete(CAPITAL)
    assert last.text == whole, (last.text, whole)


def chat(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    messages = [
        ChatMessage(role=MessageRole.SYSTEM, content="You are brief."),
        ChatMessage(role="user", content=CAPITAL),
    ]
    reply = llm.chat(messages)
    assert reply.message.role == MessageRole.ASSISTANT and "Paris" in reply.message.content, reply
    assert reply.raw.usage.completion_tokens > 0, reply
    again = llm.chat([*messages, reply.message, ChatMessage(role="user", content="And Italy?")])
    assert again.message.content, again


def stream(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    messages = [ChatMessage(role="user", content=CAPITAL)]
    parts = list(llm.stream_chat(messages))
    whole = llm.chat(messages).message.content
    assert "".join(part.delta for part in parts) == parts[-1].message.content == whole, (parts, whole)


def asynchronous(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)

    async def both() -> tuple[str, str]:
        messages = [ChatMessage(role="user", content=CAPITAL)]
        said = (await llm.achat(messages)).message.content
        return said, "".join([part.delta async for part in await llm.astream_chat(messages)])

    whole, streamed = asyncio.run(both())
    assert whole == streamed != "", (whole, streamed)


def structured_output(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    place = llm.structured_predict(Place, PromptTemplate("What is the capital of {country}?"), country="France")
    assert isinstance(place, Place), place
    found = llm.as_structured_llm(Place).chat([ChatMessage(role="user", content=CAPITAL)])
    assert isinstance(found.raw, Place), found


def structured_output_by_schema(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    llm.should_use_structured_outputs = True
    place = llm.structured_predict(Place, PromptTemplate("What is the capital of {country}?"), country="France")
    assert isinstance(place, Place), place


def tools(base_url: str, model: str) -> None:
    """A whole turn: the call, its result, the answer."""
    llm = chat_model(base_url, model)
    question = ChatMessage(role="user", content="What is the weather in Oslo?")
    reply = llm.chat_with_tools([WEATHER], chat_history=[question], tool_required=True)
    calls = llm.get_tool_calls_from_response(reply)
    assert len(calls) == 1 and is_weather_call(calls[0].tool_name, calls[0].tool_kwargs), reply
    result = ChatMessage(
        role="tool",
        content=str(WEATHER(**calls[0].tool_kwargs)),
        additional_kwargs={"tool_call_id": calls[0].tool_id, "name": "get_weather"},
    )
    answer = llm.chat_with_tools([WEATHER], chat_history=[question, reply.message, result])
    assert answer.message.content or llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False), answer


def tools_strict(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    llm.strict = True
    question = ChatMessage(role="user", content="What is the weather in Oslo?")
    for required in (True, False):
        reply = llm.chat_with_tools([WEATHER], chat_history=[question], tool_required=required)
        calls = llm.get_tool_calls_from_response(reply, error_on_no_tool_call=False)
        assert all(is_weather_call(call.tool_name, call.tool_kwargs) for call in calls), reply
        assert calls or (reply.message.content and not required), reply


def tools_stream(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    *_, last = llm.stream_chat_with_tools([WEATHER], "What is the weather in Oslo?", tool_required=True)
    calls = llm.get_tool_calls_from_response(last)
    assert len(calls) == 1 and is_weather_call(calls[0].tool_name, calls[0].tool_kwargs), last


def completions(base_url: str, model: str) -> None:
    """A model that is no chat model is asked at /v1/completions."""
    llm = OpenAILike(api_base=base_url, api_key="any", model=model, is_chat_model=False, temperature=0, max_tokens=8)
    whole = llm.complete("One, two, three,").text
    *_, last = llm.stream_complete("One, two, three,")
    assert whole and last.text == whole, (whole, last)


CHECKS = [
    complete,
    chat,
    stream,
    asynchronous,
    structured_output,
    structured_output_by_schema,
    tools,
    tools_strict,
    tools_stream,
    completions,
]

if __name__ == "__main__":
    main(CHECKS)
