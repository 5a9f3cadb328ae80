"""A model's own sampling settings behind the server, and in batches: what a request does not say is as they say."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.openai.fakes import make_llm
from tests.server.fakes import make_model, serving
from tinyllm.engine.sampling.defaults import SamplingDefaults
from tinyllm.llm import LLM
from tinyllm.openai.requests import parse_body, prepare_chat, prepare_completion
from tinyllm.openai.schema import ChatRequest, CompletionRequest

VALUES = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1}
MESSAGES = [{"role": "user", "content": "hello"}]


def authored(**values: Any) -> LLM:
    """A fake model whose files say how to sample it."""
    llm = make_llm()
    llm.sampling_defaults = SamplingDefaults(values, "generation_config.json" if values else "")
    return llm


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, VALUES),
        ({"temperature": 0}, VALUES | {"temperature": 0}),
        ({"temperature": None, "top_p": 0.5}, VALUES | {"top_p": 0.5}),
        ({"repetition_penalty": 1.0}, VALUES | {"repetition_penalty": 1.0}),
    ],
)
def test_what_a_request_does_not_say_is_as_the_model_says(said: dict[str, Any], wanted: dict[str, Any]) -> None:
    llm = authored(**VALUES)
    chat = prepare_chat(llm, parse_body(ChatRequest, {"model": "fake", "messages": MESSAGES, **said}))
    text = prepare_completion(llm, parse_body(CompletionRequest, {"model": "fake", "prompt": "hello", **said}))
    for prepared in (chat, text):
        params = prepared.sequences[0].params
        assert {name: getattr(params, name) for name in wanted} == wanted


@pytest.mark.parametrize(("values", "temperature"), [({}, 1.0), ({"top_p": 0.5}, 1.0), ({"temperature": 0.0}, 0.0)])
def test_openais_temperature_where_the_model_says_none(values: dict[str, Any], temperature: float) -> None:
    request = parse_body(ChatRequest, {"model": "fake", "messages": MESSAGES})
    assert prepare_chat(authored(**values), request).sequences[0].params.temperature == temperature


@pytest.mark.parametrize("values", [VALUES, {}], ids=["says", "silent"])
def test_models_and_the_log_say_which(values: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    source = "generation_config.json" if values else None
    with caplog.at_level("INFO", "tinyllm.server"), serving(make_model(load=lambda: authored(**values))) as live:
        listed = httpx.get(f"{live.url}/v1/models").json()["data"][0]
        alone, state = (httpx.get(f"{live.url}{path}").json() for path in ("/v1/models/fake", "/status"))
    for told in (listed, alone, state):
        assert (told["sampling_defaults"], told["sampling_defaults_from"]) == (values, source)
    (line,) = [record for record in caplog.records if record.getMessage() == "loaded"]
    assert json.loads(json.dumps(line.fields))["sampling_defaults"] == values  # type: ignore[attr-defined]
