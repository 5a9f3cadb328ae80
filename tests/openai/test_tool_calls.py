"""Calls are found in a reply, however its text is cut into pieces."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.openai.tool_calls import CallDelta, ToolCallParser

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Par}is", "deep": [{"a": "\\"}"}]}}\n</tool_call>'
ARGUMENTS = '{"city": "Par}is", "deep": [{"a": "\\"}"}]}'
Calls = list[tuple[str, str]]


def parse(pieces: list[str], **settings: object) -> tuple[str, Calls]:
    """(text, calls as (name, arguments))"""
    numbers = count()
    parser = ToolCallParser({"weather", "now"}, new_id=lambda: f"id{next(numbers)}", **settings)  # type: ignore[arg-type]
    found = [d for n, piece in enumerate(pieces) for d in parser.push(piece, last=n == len(pieces) - 1)]
    text, calls = "", []
    for delta in found:
        if isinstance(delta, str):
            text += delta
            assert delta
        elif delta.name is not None:
            assert delta.id == f"id{delta.index}" and delta.index == len(calls)
            calls.append((delta.name, delta.arguments))
        else:
            calls[delta.index] = calls[delta.index][0], calls[delta.index][1] + delta.arguments
    return text, calls


REPLIES = {
    "text": ("a < b, <tool> and { } \n", ("a < b, <tool> and { } \n", [])),
    "call": (CALL, ("", [("weather", ARGUMENTS)])),
    "text first": ("Let me see. \n" + CALL, ("Let me see.", [("weather", ARGUMENTS)])),
    "two": (
        f'{CALL}\n<tool_call>{{"name":"now","arguments":{{}}}}</tool_call>\n',
        ("", [("weather", ARGUMENTS), ("now", "{}")]),
    ),
    "text after": (CALL + " done", ("done", [("weather", ARGUMENTS)])),
    "no end": (CALL.partition("</")[0], ("", [("weather", ARGUMENTS)])),
    "cut off": (CALL[: CALL.index("ar}is")], ("", [("weather", '{"city": "P')])),
    "arguments first": ('<tool_call>{"arguments": {"x": 1}, "name": "now"}</tool_call>', ("", [("now", '{"x": 1}')])),
    "arguments as text": ('<tool_call>{"name": "now", "arguments": "{}"}</tool_call>', ("", [("now", "{}")])),
    "no arguments": ('<tool_call>{"name": "now"}</tool_call>', ("", [("now", "{}")])),
    "unknown": (
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>!',
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>!', []),
    ),
    "no json": ("<tool_call>later</tool_call>", ("<tool_call>later</tool_call>", [])),
    "name of another kind": (
        '<tool_call>{"name": ["now"]}</tool_call>',
        ('<tool_call>{"name": ["now"]}</tool_call>', []),
    ),
    "half a tag": ("a <tool_c", ("a <tool_c", [])),
}


@pytest.mark.parametrize("name", REPLIES)
def test_what_is_found(name: str) -> None:
    text, wanted = REPLIES[name]
    got = parse([text])
    assert (got[0].strip() if "after" in name else got[0], got[1]) == wanted


@given(st.sampled_from(sorted(REPLIES)), st.data())
def test_cuts_make_no_difference(name: str, data: st.DataObject) -> None:
    text = REPLIES[name][0]
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert parse(pieces) == parse([text])


@given(st.text(alphabet='<tool_cal>/{}": \nname', max_size=40))
def test_text_without_calls_stays_as_it_is(text: str) -> None:
    assert parse(list(text) or [""]) == (text, [])


def test_a_prompt_that_begins_the_call() -> None:
    assert parse(list('{"name": "now", "arguments": {"a": 1}}'), inside=True) == ("", [("now", '{"a": 1}')])


def test_no_more_than_wanted() -> None:
    parser = ToolCallParser({"weather", "now"}, most=1)
    found = parser.push(CALL + CALL)
    assert parser.full and sum(isinstance(d, CallDelta) and d.name is not None for d in found) == 1
    assert parser.push("more") == []


def test_arguments_come_as_they_are_written() -> None:
    """A long call is not held back until it is whole."""
    parser = ToolCallParser({"weather"})
    assert len(parser.push('<tool_call>{"name": "weather", "arguments": {"city": "Pa')) == 2
    assert parser.push("ris") == [CallDelta(0, "ris")]
