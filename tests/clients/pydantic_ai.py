"""`pydantic-ai`: an agent's text, its stream, its outputs as a tool, by a schema and by a prompt, tools in a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, NativeOutput, RunContext, ToolOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

from tests.clients.checks import main

CAPITAL = "What is the capital of France? Answer in one sentence."
SETTINGS = ModelSettings(temperature=0, max_tokens=80)


class Place(BaseModel):
    """A place."""

    capital: Literal["Paris", "Rome"]
    large: bool


def chat_model(base_url: str, model: str) -> OpenAIChatModel:
    return OpenAIChatModel(model, provider=OpenAIProvider(base_url=base_url, api_key="any"))


def chat(base_url: str, model: str) -> None:
    agent = Agent(chat_model(base_url, model), instructions="You are brief.")
    result = agent.run_sync(CAPITAL, model_settings=SETTINGS)
    assert "Paris" in result.output, result
    assert result.usage.output_tokens > 0, result.usage
    again = agent.run_sync("And Italy?", message_history=result.all_messages(), model_settings=SETTINGS)
    assert again.output, again


def stream(base_url: str, model: str) -> None:
    agent = Agent(chat_model(base_url, model))

    async def streamed() -> str:
        async with agent.run_stream(CAPITAL, model_settings=SETTINGS) as result:
            return "".join([text async for text in result.stream_text(delta=True, debounce_by=None)])

    text, whole = asyncio.run(streamed()), agent.run_sync(CAPITAL, model_settings=SETTINGS).output
    assert text == whole != "", (text, whole)


def structured_output(base_url: str, model: str) -> None:
    for output in (Place, ToolOutput(Place, strict=True), NativeOutput(Place), NativeOutput(Place, strict=True)):
        agent = Agent(chat_model(base_url, model), output_type=output)
        result = agent.run_sync(CAPITAL, model_settings=SETTINGS)
        assert isinstance(result.output, Place), result


def structured_stream(base_url: str, model: str) -> None:
    agent = Agent(chat_model(base_url, model), output_type=NativeOutput(Place))

    async def last() -> Place:
        async with agent.run_stream(CAPITAL, model_settings=SETTINGS) as result:
            return await result.get_output()

    assert isinstance(asyncio.run(last()), Place)


class WeatherFirst(AbstractCapability[None]):
    """Has the model call `get_weather` in the first step, and no tool after it."""

    def get_model_settings(self) -> Callable[[RunContext[None]], ModelSettings]:
        return lambda context: ModelSettings(tool_choice=["get_weather"] if context.run_step == 1 else "none")


def tools(base_url: str, model: str) -> None:
    """A whole turn, which the agent takes by itself: the call, its result, an output of the type."""
    agent = Agent(chat_model(base_url, model), output_type=NativeOutput(Place), capabilities=[WeatherFirst()])

    @agent.tool_plain
    def get_weather(city: Literal["Oslo", "Rome"]) -> str:
        """Tells the weather of a city."""
        return f"rain in {city}"

    result = agent.run_sync(CAPITAL, model_settings=SETTINGS, usage_limits=UsageLimits(request_limit=4))
    parts = [part for message in result.all_messages() for part in message.parts]
    returned = [part for part in parts if isinstance(part, ToolReturnPart)]
    assert returned and returned[0].tool_name == "get_weather" and returned[0].content.startswith("rain in "), parts
    assert isinstance(result.output, Place), result


def tools_with_text(base_url: str, model: str) -> None:
    """Where the model may answer as well as call, as agents mostly ask."""
    agent = Agent(chat_model(base_url, model))

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        return f"rain in {city}"

    result = agent.run_sync(CAPITAL, model_settings=SETTINGS, usage_limits=UsageLimits(request_limit=4))
    assert isinstance(result.output, str), result


CHECKS = [chat, stream, structured_output, structured_stream, tools, tools_with_text]

if __name__ == "__main__":
    main(CHECKS)
