"""Calls of a model whose tokenizer has the tags around them as special tokens, which other replies leave out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from tests.engine.fakes import STOP, VOCABULARY
from tests.openai.fakes import Program, make_llm
from tests.openai.test_tool_calls import REPLIES
from tests.server.fakes import make_model, serving
from tinyllm.llm import LLM
from tinyllm.models.text.token_text import byte_alphabet
from tinyllm.models.text.tokenizer import Tokenizer

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")
SPECIAL = {"<end>": STOP, "<tool_call>": 1, "</tool_call>": 2, "<|other|>": 3, "[TOOL_CALLS]": 4, "[THINK]": 5}
SPECIAL |= {"[/THINK]": 6, "<|channel>": 7, "<channel|>": 8, '<|"|>': 9}
TOOLS: list[Any] = [{"type": "function", "function": {"name": name}} for name in ("weather", "now")]
STRICT = [{"type": "function", "function": {"name": name, "strict": True}} for name in ("weather", "now")]
EMPTY = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'


def in_special_tokens(text: str) -> str:
    """A character stands for a token."""
    for special, token in SPECIAL.items():
        text = text.replace(special, chr(token))
    return text


def tokenizer() -> Tokenizer:
    characters = {c: byte for c, byte in byte_alphabet().items() if len(SPECIAL) <= byte < VOCABULARY}
    backend = Backend(models.BPE(vocab=characters | SPECIAL, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return Tokenizer(backend, "test", eos_token_ids=(STOP,))


def load(says: dict[str, str]) -> LLM:
    llm = make_llm(Program(says=says))
    llm.__dict__["tokenizer"] = tokenizer()
    return llm


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    texts = {name: text for name, (text, _) in REPLIES.items() if text.isascii()} | {"empty": EMPTY}
    texts["mistral"] = "[THINK]Hm[/THINK]So.[TOOL_CALLS]now[ARGS]{}"
    texts["gemma"] = '<|channel>thought\nHm<channel|>So.<|tool_call>call:now{a:<|"|>b<|"|>}<tool_call|>'
    texts["other"] = f"<|other|>Say <tool_call> and <|other|>. {EMPTY}<|other|>"
    says = {f"plain {name};<assistant>": text for name, text in texts.items()}
    says |= {f"special {name};<assistant>": in_special_tokens(text) for name, text in texts.items()}
    with serving(make_model(load=lambda: load(says))) as live:
        yield openai.OpenAI(base_url=f"{live.url}/v1", api_key="k", max_retries=0, timeout=20)
        assert live.settled()


def ask(client: Any, text: str, stream: bool, **extra: Any) -> tuple[str | None, list[tuple[str, str]]]:
    """(content, calls)"""
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 200}
    if stream:
        with client.chat.completions.stream(**body, **extra) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**body, **extra).choices[0].message
    return message.content, [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [name for name, (text, _) in REPLIES.items() if text.isascii()])
def test_calls_are_found_whether_tags_are_special_or_not(client: Any, name: str, stream: bool) -> None:
    assert ask(client, f"special {name}", stream, tools=TOOLS) == ask(client, f"plain {name}", stream, tools=TOOLS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("extra", [{"tools": STRICT}, {"tools": TOOLS, "tool_choice": "required"}])
def test_a_grammar_takes_the_tags_as_the_model_writes_them(client: Any, extra: Any, stream: bool) -> None:
    for kind in ("special", "plain"):
        assert ask(client, f"{kind} empty", stream, **extra) == (None, [("now", "{}")])
    body = {"model": "fake", "messages": [{"role": "user", "content": "special empty"}], "temperature": 0, **extra}
    reply = client.chat.completions.create(**body, logprobs=True)
    assert reply.choices[0].logprobs.content[0].token == "<tool_call>"


@pytest.mark.parametrize("stream", [False, True])
def test_other_special_tokens_are_left_out(client: Any, stream: bool) -> None:
    text, calls = ask(client, "special other", stream, tools=TOOLS)
    assert text == "Say <tool_call> and ." and calls == [("now", "{}")]
    assert ask(client, "special empty", stream) == ('{"name": "now", "arguments": {}}', [])


def test_json_has_no_special_token_in_its_strings(client: Any) -> None:
    """Without tools the tags are left out, and a string with one would not be what its schema asks for."""
    schema = {"const": "<tool_call>"}
    text, _ = ask(client, "special empty", False, extra_body={"guided_json": schema})
    assert json.loads(text or "") == "<tool_call>"


@pytest.mark.parametrize("kind", ["special", "plain"])
@pytest.mark.parametrize(
    ("family", "arguments", "without_tools"),
    [("mistral", "{}", "So.now[ARGS]{}"), ("gemma", '{"a": "b"}', "So.<|tool_call>call:now{a:b}<tool_call|>")],
)
def test_thoughts_and_calls_are_read_from_special_tokens(
    client: Any, family: str, arguments: str, without_tools: str, kind: str
) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": f"{kind} {family}"}], "temperature": 0}
    message = client.chat.completions.create(**body, tools=TOOLS).choices[0].message
    assert (message.reasoning, message.reasoning_content, message.content) == ("Hm", "Hm", "So.")
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [("now", arguments)]
    if kind == "special":
        message = client.chat.completions.create(**body).choices[0].message
        assert (message.reasoning, message.content) == ("Hm", without_tools)
