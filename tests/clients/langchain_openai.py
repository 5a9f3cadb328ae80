"""`langchain-openai`: replies whole, streamed, asynchronous and in batches, structured output, tools, completions;
embeddings are refused."""

from __future__ import annotations

import asyncio
from typing import Literal

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

from tests.clients.checks import main

CAPITAL = "What is the capital of France? Answer in one sentence."


class Place(BaseModel):
    """A place."""

    capital: Literal["Paris", "Rome"] = Field(description="its capital")
    large: bool


@tool
def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"rain in {city}"


def chat_model(base_url: str, model: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=base_url, api_key="any", model=model, stream_usage=True, temperature=0, max_tokens=80)


def chat(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    reply = llm.invoke(CAPITAL)
    assert isinstance(reply, AIMessage) and "Paris" in reply.content, reply
    assert reply.response_metadata["finish_reason"] == "stop", reply
    assert reply.usage_metadata["total_tokens"] > reply.usage_metadata["input_tokens"] > 0, reply


def chain(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    prompt = ChatPromptTemplate.from_messages([("system", "You know {what}."), ("user", "{question}")])
    replies = (prompt | llm).batch([{"what": "geography", "question": CAPITAL}] * 3)
    assert len({reply.content for reply in replies}) == 1 and replies[0].content, replies


def chat_goes_on(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    messages = [SystemMessage("You are brief."), HumanMessage(CAPITAL, name="ann")]
    messages += [llm.invoke(messages), HumanMessage([{"type": "text", "text": "And Italy?"}])]
    assert llm.invoke(messages).content


def stream(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    chunks = list(llm.stream(CAPITAL))
    assert "".join(chunk.content for chunk in chunks) == llm.invoke(CAPITAL).content, chunks
    whole = sum(chunks[1:], chunks[0])
    assert whole.response_metadata["finish_reason"] == "stop" and whole.usage_metadata["output_tokens"] > 0, whole


def asynchronous(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)

    async def both() -> tuple[str, str]:
        said = await llm.ainvoke(CAPITAL)
        return said.content, "".join([chunk.content async for chunk in llm.astream(CAPITAL)])

    whole, streamed = asyncio.run(both())
    assert whole == streamed != "", (whole, streamed)


def structured_output(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    place = llm.with_structured_output(Place).invoke(CAPITAL)
    assert isinstance(place, Place), place
    for method in ("function_calling", "json_schema"):
        for strict in (None, True):
            found = llm.with_structured_output(Place, method=method, strict=strict, include_raw=True).invoke(CAPITAL)
            assert isinstance(found["parsed"], Place) and found["parsing_error"] is None, (method, strict, found)
    found = llm.with_structured_output(Place.model_json_schema(), method="json_schema").invoke(CAPITAL)
    assert isinstance(found, dict) and Place.model_validate(found), found


def json_mode(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model).bind(response_format={"type": "json_object"})
    reply = llm.invoke("Answer in JSON with the key capital: what is the capital of France?")
    assert reply.content.startswith("{"), reply


def structured_stream(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model)
    *_, last = llm.with_structured_output(Place).stream(CAPITAL)
    assert isinstance(last, Place), last


def tools(base_url: str, model: str) -> None:
    """A whole turn, as an agent takes it: the call, its result, the answer."""
    llm = chat_model(base_url, model)
    question = HumanMessage("What is the weather in Oslo?")
    for choice in ("any", "required", "get_weather", True):
        bound = llm.bind_tools([get_weather], tool_choice=choice)
        reply = bound.invoke([question])
        assert [call["name"] for call in reply.tool_calls] == ["get_weather"], (choice, reply)
        assert not reply.invalid_tool_calls, reply
    result = get_weather.invoke(reply.tool_calls[0])
    assert isinstance(result, ToolMessage) and result.name == "get_weather", result
    for strict in (None, True):
        answer = llm.bind_tools([get_weather], strict=strict).invoke([question, reply, result])
        assert answer.content or answer.tool_calls, answer


def tools_stream(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model).bind_tools([get_weather], tool_choice="get_weather")
    chunks = list(llm.stream("What is the weather in Oslo?"))
    whole = sum(chunks[1:], chunks[0])
    assert [call["name"] for call in whole.tool_calls] == ["get_weather"], whole
    assert isinstance(whole.tool_calls[0]["args"]["city"], str), whole


def tools_beside_a_format(base_url: str, model: str) -> None:
    llm = chat_model(base_url, model).bind_tools([get_weather], response_format=Place, strict=True)
    reply = llm.invoke(CAPITAL)
    assert reply.tool_calls or isinstance(reply.additional_kwargs["parsed"], Place), reply


def completions(base_url: str, model: str) -> None:
    llm = OpenAI(base_url=base_url, api_key="any", model=model, temperature=0, max_tokens=8)
    whole = llm.invoke("One, two, three,")
    assert whole and "".join(llm.stream("One, two, three,")) == whole, whole


def token_counts(base_url: str, model: str) -> None:
    reply = chat_model(base_url, model).bind(logprobs=True, top_logprobs=2).invoke(CAPITAL)
    entries = reply.response_metadata["logprobs"]["content"]
    assert len(entries) == reply.usage_metadata["output_tokens"], reply


def embeddings_are_refused(base_url: str, model: str) -> None:
    embeddings = OpenAIEmbeddings(base_url=base_url, api_key="any", model=model, check_embedding_ctx_length=False)
    try:
        embeddings.embed_query("a text")
    except openai.NotFoundError as error:
        assert "/v1/embeddings" in str(error), error
    else:
        raise AssertionError("expected embeddings to be refused, got some")


CHECKS = [
    chat,
    chain,
    chat_goes_on,
    stream,
    asynchronous,
    structured_output,
    json_mode,
    structured_stream,
    tools,
    tools_stream,
    tools_beside_a_format,
    completions,
    token_counts,
    embeddings_are_refused,
]

if __name__ == "__main__":
    main(CHECKS)
