"""The `openai` package, as it is, against SmolLM2 over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.server.fakes import Live, serving
from tinyllm import load
from tinyllm.server.served_model import EngineSettings, ServedModel

openai = pytest.importorskip("openai")
pytest.importorskip("torch")
pytestmark = pytest.mark.slow
MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
TOOL = {
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


@pytest.fixture(scope="module")
def live(smollm2_path: Path) -> Iterator[Live]:
    settings = EngineSettings(cache_tokens=16384, page_size=16)
    model = ServedModel("smollm2", lambda: load(smollm2_path, "torch"), settings)
    with serving(model, load_seconds=120, api_key="k") as live:
        yield live
        assert live.settled()


@pytest.fixture
def client(live: Live) -> Any:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="k", max_retries=0, timeout=120)


def ask(client: Any, **extra: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "smollm2", "messages": MESSAGES, "max_tokens": 24, "temperature": 0} | extra
    )


def test_chat_and_its_stream(client: Any) -> None:
    whole = ask(client)
    assert "Paris" in whole.choices[0].message.content and whole.choices[0].finish_reason == "stop"
    told = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in told if c.choices) == whole.choices[0].message.content
    assert told[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert told[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_the_reply_is_that_of_the_library(client: Any, live: Live) -> None:
    wanted = live.model.llm.generate(MESSAGES, max_tokens=24)
    assert ask(client).choices[0].message.content == wanted.text  # type: ignore[union-attr]


def test_many_at_once(client: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    alone = ask(client).choices[0].message.content
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(client).choices[0].message.content, range(8))) == {alone}


def test_choices_stop_and_logprobs(client: Any) -> None:
    found = ask(client, n=2, temperature=1.0, seed=3, stop=["."], logprobs=True, top_logprobs=3)
    assert [c.index for c in found.choices] == [0, 1]
    for choice in found.choices:
        assert "." not in choice.message.content and len(choice.logprobs.content[0].top_logprobs) == 3
        text = b"".join(bytes(t.bytes) for t in choice.logprobs.content).decode(errors="replace")
        assert text.startswith(choice.message.content)
    told = list(ask(client, logprobs=True, top_logprobs=1, stream=True))
    assert any(c.choices[0].logprobs and c.choices[0].logprobs.content[0].logprob <= 0 for c in told)


def test_tools(client: Any) -> None:
    pytest.importorskip("llguidance")
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    call = ask(client, messages=question, tools=[TOOL], tool_choice="required", max_tokens=60).choices[0]
    assert call.finish_reason == "tool_calls" and call.message.tool_calls[0].function.name == "get_weather"
    assert isinstance(json.loads(call.message.tool_calls[0].function.arguments)["city"], str)
    after = [
        *question,
        call.message,
        {"role": "tool", "tool_call_id": call.message.tool_calls[0].id, "content": "rain, 4 degrees"},
    ]
    assert ask(client, messages=after, tools=[TOOL]).choices[0].message.content is not None
    with client.chat.completions.stream(
        model="smollm2",
        messages=question,
        tools=[TOOL | {"function": TOOL["function"] | {"strict": True}}],  # type: ignore[operator]
        tool_choice="required",
        max_tokens=60,
        temperature=0,
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.choices[0].message.tool_calls[0].function.arguments == call.message.tool_calls[0].function.arguments


def test_structured_output(client: Any) -> None:
    pytest.importorskip("llguidance")
    pydantic = pytest.importorskip("pydantic")
    place = pydantic.create_model("Place", capital=(Literal["Paris", "Rome"], ...), large=(bool, ...))
    found = client.chat.completions.parse(
        model="smollm2", messages=MESSAGES, response_format=place, max_tokens=80, temperature=0
    )
    assert found.choices[0].message.parsed == place(capital="Paris", large=found.choices[0].message.parsed.large)


def test_completions_and_models(client: Any) -> None:
    found = client.completions.create(
        model="smollm2", prompt="One, two, three,", max_tokens=8, temperature=0, logprobs=2
    )
    assert (
        "four" in found.choices[0].text and len(found.choices[0].logprobs.tokens) == found.usage.completion_tokens == 8
    )
    told = client.completions.create(
        model="smollm2", prompt="One, two, three,", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(c.choices[0].text for c in told) == found.choices[0].text
    assert [m.id for m in client.models.list()] == ["smollm2"] and client.models.retrieve(
        "smollm2"
    ).owned_by == "tinyllm"


def test_errors_are_the_clients_own(client: Any, live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="not supported") as refused:
        ask(client, extra_body={"best_effort": True})
    assert refused.value.param == "best_effort" and refused.value.request_id
    with pytest.raises(openai.BadRequestError, match=r"has \d{5} tokens, at most \d+") as long:
        ask(client, messages=[{"role": "user", "content": "word " * 12000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        ask(client, model="gpt-9")
    with pytest.raises(openai.AuthenticationError):
        ask(openai.OpenAI(base_url=f"{live.url}/v1", api_key="wrong", max_retries=0))
    with pytest.raises(openai.APIStatusError) as large:
        ask(client, messages=[{"role": "user", "content": "x" * 10_000_000}])
    assert large.value.status_code == 413


def test_a_stream_that_is_closed_frees_its_pages(client: Any, live: Live) -> None:
    stream = ask(client, stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert live.settled(5)
