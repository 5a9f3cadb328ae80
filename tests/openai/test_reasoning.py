"""Thoughts are separated from answers and calls, however the reply is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.openai.fakes import make_llm
from tests.openai.test_replies import push
from tests.openai.test_requests import CHAT
from tinyllm.openai.call_parts import CallDelta, Thought
from tinyllm.openai.reasoning import HARMONY_TAGS, HarmonyReader, ReplyReader, TaggedReader, thought_end
from tinyllm.openai.replies import make_reply
from tinyllm.openai.requests import parse_body, prepare_chat
from tinyllm.openai.schema import ChatRequest
from tinyllm.openai.tool_calls import ToolCallParser

TOOLS = {"now"}
CALL = '<tool_call>\n{"name": "now", "arguments": {"a": 1}}\n</tool_call>'
TO_NOW = "<|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>"
Read = tuple[str, str, list[tuple[str, Any]]]

TAGGED: dict[str, tuple[str, str | None, Read]] = {
    "none": ("Hi <think>x</think>", None, ("", "Hi <think>x</think>", [])),
    "Qwen3": ("<think>\nOne\n\ntwo.\n</think>\n\nHi there.\n", None, ("One\n\ntwo.", "Hi there.\n", [])),
    "empty": ("<think>\n\n</think>\n\nHi", None, ("", "Hi", [])),
    "begun by the prompt": ("One.\n</think>\n\nHi", "</think>", ("One.", "Hi", [])),
    "begun and written": ("\nOne</think>", "</think>", ("One", "", [])),
    "cut off": ("<think>\nOne </thi", None, ("One </thi", "", [])),
    "Magistral": ("[THINK]One < two[/THINK]Hi", None, ("One < two", "Hi", [])),
    "Cohere": ("<|START_THINKING|>One<|END_THINKING|>Hi", None, ("One", "Hi", [])),
    "Gemma 4": ("<|channel>thought\nOne\n<channel|>Hi", None, ("One", "Hi", [])),
    "Gemma 4, empty": ("<|channel>thought\n<channel|>Hi", None, ("", "Hi", [])),
    "with a call": (f"<think>{CALL}?</think>\n\nSo. {CALL}", None, (f"{CALL}?", "So.", [("now", {"a": 1})])),
    "a call alone": (f"<think>a</think>\n{CALL}", None, ("a", "", [("now", {"a": 1})])),
    "half a tag": ("<thi", None, ("", "<thi", [])),
    "blanks": (" \n ", None, ("", " \n ", [])),
}
HARMONY: dict[str, tuple[str, Read]] = {
    "no head": ("Hi there", ("", "Hi there", [])),
    "an answer": ("<|channel|>final<|message|>Hi <b>", ("", "Hi <b>", [])),
    "thought and answer": (
        "<|channel|>analysis<|message|>One, two.<|end|><|start|>assistant<|channel|>final<|message|>Hi",
        ("One, two.", "Hi", []),
    ),
    "a call": (
        f'<|channel|>analysis<|message|>Hm<|end|>{TO_NOW}{{"a": 1}}<|call|>',
        ("Hm", "", [("now", {"a": 1})]),
    ),
    "the tool's name first": (
        ' to=functions.now<|channel|>commentary json<|message|>{"a": "<"}',
        ("", "", [("now", {"a": "<"})]),
    ),
    "a preamble": (f"<|channel|>commentary<|message|>I look.<|end|>{TO_NOW}{{}}", ("", "I look.", [("now", {})])),
    "two calls": (f'{TO_NOW}{{"a": 1}}<|call|>{TO_NOW}{{}}', ("", "", [("now", {"a": 1}), ("now", {})])),
    "an unknown tool": ("<|channel|>commentary to=functions.rm<|message|>{}", ("", "{}", [])),
    "a head cut off": ("<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|chan", ("Hm", "", [])),
    "cut off": ("<|channel|>analysis<|message|>Hm <|e", ("Hm <|e", "", [])),
}


def read(reader: ReplyReader, pieces: list[str]) -> Read:
    thought, text, names, arguments = "", "", [], []
    for number, piece in enumerate(pieces):
        for part in reader.push(piece, last=number == len(pieces) - 1):
            if isinstance(part, Thought):
                assert part.text
                thought += part.text
            elif isinstance(part, CallDelta):
                names += [] if part.name is None else [part.name]
                arguments += [] if part.name is None else [""]
                arguments[part.index] += part.arguments
            else:
                text += part
    assert reader.count == len(names)
    return thought, text, list(zip(names, map(json.loads, arguments), strict=True))


def cuts(text: str) -> list[list[str]]:
    return [[text[:place], text[place:]] for place in range(len(text))] + [list(text), [*text, ""]]


@pytest.mark.parametrize("name", TAGGED)
def test_thoughts_between_tags(name: str) -> None:
    written, end, wanted = TAGGED[name]
    for pieces in cuts(written):
        assert read(TaggedReader(ToolCallParser(TOOLS), end), pieces) == wanted, pieces
        if not wanted[2]:
            assert read(TaggedReader(None, end), pieces) == wanted, pieces
    assert read(TaggedReader(None, thinks=False), [written])[:2] == ("", written)


@pytest.mark.parametrize("name", HARMONY)
def test_messages_of_harmony(name: str) -> None:
    written, wanted = HARMONY[name]
    for pieces in cuts(written):
        assert read(HarmonyReader(TOOLS), pieces) == wanted, pieces


@given(st.text(alphabet="<think>/ \n[THINK]a|", max_size=40))
def test_a_reply_without_thoughts_stays_as_it_is(text: str) -> None:
    if not text.lstrip().startswith(("<think>", "[THINK]")):
        assert read(TaggedReader(None), list(text) or [""]) == ("", text, [])


def test_thoughts_come_as_they_are_written() -> None:
    tagged, harmony = TaggedReader(None), HarmonyReader()
    assert tagged.push("<think>\nOne") == [Thought("One")] == harmony.push("<|channel|>analysis<|message|>One")
    assert tagged.push(" and") == [Thought(" and")] == harmony.push(" and")


def test_one_call_of_harmony_is_enough_where_one_is_wanted() -> None:
    reader = HarmonyReader(TOOLS, most=1)
    assert read(reader, list(f"{TO_NOW}{{}}<|call|>{TO_NOW}{{}}"))[2] == [("now", {})] and reader.full


def test_a_prompt_may_begin_a_thought() -> None:
    assert thought_end("<|im_start|>assistant\n<think>\n") == "</think>"
    assert thought_end("<think>\n\n</think>\n\n") is None


THINKING = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
NOW = {"type": "function", "function": {"name": "now"}}


def replied(body: dict[str, Any], written: str, special: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    """The message of a reply; its chunks say the same."""
    llm = make_llm(**options)
    llm.tokenizer.special_tokens = dict.fromkeys(special, 1) if special else llm.tokenizer.special_tokens
    reply = make_reply(prepare_chat(llm, parse_body(ChatRequest, CHAT | body)), "fake", "fp", llm.tokenizer)
    streamed: dict[str, str] = {}
    for chunk in push(reply, 0, written):
        for key, value in chunk["choices"][0]["delta"].items():
            if isinstance(value, str) and key != "role":
                streamed[key] = streamed.get(key, "") + value
    message: dict[str, Any] = reply.body()["choices"][0]["message"]
    assert {key: streamed.get(key) or "" for key in ("content", "reasoning", "reasoning_content")} == {
        key: message.get(key) or "" for key in ("content", "reasoning", "reasoning_content")
    }
    return message


def test_replies_have_thoughts_under_both_names() -> None:
    message = replied({}, "<think>One</think>\n\nHi")
    assert (message["content"], message["reasoning"], message["reasoning_content"]) == ("Hi", "One", "One")
    message = replied({}, "One</think>Hi", template=THINKING)
    assert (message["content"], message["reasoning"]) == ("Hi", "One")
    assert replied({}, "Hi") == {"role": "assistant", "content": "Hi", "refusal": None}


def test_a_grammar_leaves_no_room_for_thoughts() -> None:
    pytest.importorskip("llguidance")
    message = replied({"guided_regex": ".*"}, "<think>One", template=THINKING)
    assert message["content"] == "<think>One" and "reasoning" not in message


def test_harmony_is_known_by_its_special_tokens() -> None:
    written = f"<|channel|>analysis<|message|>Hm<|end|>{TO_NOW}{{}}"
    message = replied({"tools": [NOW]}, written, special=HARMONY_TAGS)
    assert message["reasoning"] == "Hm" and message["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
    assert replied({}, "<|channel|>final<|message|>Hi", special=HARMONY_TAGS)["content"] == "Hi"
    assert replied({}, "<|channel|>final<|message|>Hi")["content"] == "<|channel|>final<|message|>Hi"
