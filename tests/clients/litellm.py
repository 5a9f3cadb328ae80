"""`litellm`: completion with the prefixes `openai/` and `hosted_vllm/`, streams, formats, tools, text completions."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # a list of prices, which it would fetch otherwise
import litellm
from litellm import acompletion, completion, embedding, stream_chunk_builder, text_completion
from pydantic import BaseModel

from tests.clients.checks import is_weather_call, main

CAPITAL = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
OSLO = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Place(BaseModel):
    capital: Literal["Paris", "Rome"]
    large: bool


def settings(base_url: str, model: str) -> dict[str, Any]:
    return {"model": f"openai/{model}", "api_base": base_url, "api_key": "any", "temperature": 0, "max_tokens": 80}


def chat(base_url: str, model: str) -> None:
    messages = CAPITAL
    reply = completion(
        model=f"openai/{model}", api_base=base_url, api_key="any", messages=messages, temperature=0, max_tokens=80
    )
    assert "Paris" in reply.choices[0].message.content and reply.choices[0].finish_reason == "stop", reply
    assert reply.usage.total_tokens > reply.usage.completion_tokens > 0, reply


def chat_as_another_server(base_url: str, model: str) -> None:
    """The provider that litellm has for servers of this kind."""
    reply = completion(**settings(base_url, model) | {"model": f"hosted_vllm/{model}"}, messages=CAPITAL)
    assert "Paris" in reply.choices[0].message.content, reply


def chat_goes_on(base_url: str, model: str) -> None:
    first = completion(**settings(base_url, model), messages=CAPITAL).choices[0].message
    for said in (first, first.model_dump(), first.json()):
        messages = [*CAPITAL, said, {"role": "user", "content": "And Italy?"}]
        assert completion(**settings(base_url, model), messages=messages).choices[0].message.content


def stream(base_url: str, model: str) -> None:
    whole = completion(**settings(base_url, model), messages=CAPITAL)
    asked = settings(base_url, model) | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(completion(**asked, messages=CAPITAL))
    built = stream_chunk_builder(chunks, messages=CAPITAL)
    assert built.choices[0].message.content == whole.choices[0].message.content, (built, whole)
    assert built.choices[0].finish_reason == "stop", built
    assert built.usage.completion_tokens == whole.usage.completion_tokens, (built.usage, whole.usage)


def asynchronous(base_url: str, model: str) -> None:
    async def both() -> tuple[str, str]:
        said = (await acompletion(**settings(base_url, model), messages=CAPITAL)).choices[0].message.content
        chunks = await acompletion(**settings(base_url, model), messages=CAPITAL, stream=True)
        return said, "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    whole, streamed = asyncio.run(both())
    assert whole == streamed != "", (whole, streamed)


def structured_output(base_url: str, model: str) -> None:
    reply = completion(**settings(base_url, model), messages=CAPITAL, response_format=Place)
    Place.model_validate_json(reply.choices[0].message.content)
    reply = completion(**settings(base_url, model), messages=CAPITAL, response_format={"type": "json_object"})
    assert reply.choices[0].message.content.startswith("{"), reply


def tools(base_url: str, model: str) -> None:
    """A whole turn: the call, its result, the answer."""
    asked = settings(base_url, model) | {"tools": [WEATHER]}
    reply = completion(**asked, messages=OSLO, tool_choice="required", parallel_tool_calls=False).choices[0]
    (call,) = reply.message.tool_calls
    assert reply.finish_reason == "tool_calls", reply
    assert is_weather_call(call.function.name, call.function.arguments), reply
    result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": "rain"}
    for said in (reply.message, reply.message.model_dump()):
        answer = completion(**asked, messages=[*OSLO, said, result]).choices[0].message
        assert answer.content or answer.tool_calls, answer


def tools_stream(base_url: str, model: str) -> None:
    asked = settings(base_url, model) | {"tools": [WEATHER], "stream": True}
    named = {"type": "function", "function": {"name": "get_weather"}}
    chunks = list(completion(**asked, messages=OSLO, tool_choice=named))
    (call,) = stream_chunk_builder(chunks, messages=OSLO).choices[0].message.tool_calls
    assert is_weather_call(call.function.name, call.function.arguments), call


def completions(base_url: str, model: str) -> None:
    asked = settings(base_url, model) | {"model": f"text-completion-openai/{model}", "max_tokens": 8}
    whole = text_completion(**asked, prompt="One, two, three,").choices[0].text
    chunks = text_completion(**asked, prompt="One, two, three,", stream=True)
    streamed = "".join(chunk.choices[0].text or "" for chunk in chunks if chunk.choices)
    assert streamed == whole != "", (streamed, whole)


def errors(base_url: str, model: str) -> None:
    """A prompt that is too long, and embeddings, are refused as what they are."""
    try:
        completion(**settings(base_url, model), messages=[{"role": "user", "content": "word " * 12000}])
    except litellm.ContextWindowExceededError:
        pass
    else:
        raise AssertionError("expected a prompt that is too long to be refused, got a reply")
    try:
        embedding(model=f"openai/{model}", api_base=base_url, api_key="any", input=["a text"])
    except litellm.NotFoundError as error:
        assert "/v1/embeddings" in str(error), error
    else:
        raise AssertionError("expected embeddings to be refused, got some")


CHECKS = [
    chat,
    chat_as_another_server,
    chat_goes_on,
    stream,
    asynchronous,
    structured_output,
    tools,
    tools_stream,
    completions,
    errors,
]

if __name__ == "__main__":
    main(CHECKS)
