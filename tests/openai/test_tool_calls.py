"""Calls are found in a reply, however its text is cut into pieces."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.openai.call_parts import CallDelta
from tinyllm.openai.tool_calls import ToolCallParser

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
    "tag alone": ("a <tool_call>", ("a <tool_call>", [])),
    "no brace at the end": (
        '<tool_call>{"name": "now", "arguments": {"a": 1}</tool_call> so',
        (" so", [("now", '{"a": 1}')]),
    ),
    "neither brace nor tag": ('<tool_call>{"name": "now", "arguments": {}} so', (" so", [("now", "{}")])),
    "objects in one tag": (
        '<tool_call>{"name": "now", "arguments": {}}\n{"name": "weather", "arguments": {"a": 1}}</tool_call>',
        ("", [("now", "{}"), ("weather", '{"a": 1}')]),
    ),
    "untagged one after another": (
        '{"name": "now", "parameters": {}}; {"name": "weather", "parameters": {"a": 1}}',
        ("", [("now", "{}"), ("weather", '{"a": 1}')]),
    ),
    "list with what is no call": (
        '<tool_call>[{"name": "now"}, 3]</tool_call>',
        ('<tool_call>[{"name": "now"}, 3]</tool_call>', []),
    ),
    "object": ('{"answer": "<tool_c", "name": 1} ', ('{"answer": "<tool_c", "name": 1} ', [])),
    "object with a name": ('\n{"name": "now", "age": 3}', ('\n{"name": "now", "age": 3}', [])),
    "object with an unknown name": ('{"name": "rm", "parameters": {}}', ('{"name": "rm", "parameters": {}}', [])),
    "object cut off": ('{"arguments": {"a": ', ('{"arguments": {"a": ', [])),
    "python": ("<|python_tag|>print(1)", ("<|python_tag|>print(1)", [])),
    "blanks": (" \n ", (" \n ", [])),
}
WRITTEN = '{"x": "</tool_call> <tool_call>{\\"name\\"", "deep": [{"}": null}]}'
ONE_CALL = {
    "name first": '{"name": "now", "arguments": %s}',
    "arguments first": '{"arguments": %s, "name": "now"}',
    "as Llama says it": '{"name": "now", "parameters": %s}',
    "parameters first": '{"type": "function", "parameters": %s, "name": "now"}',
    "keys after the arguments": '{"name": "now", "arguments": %s, "id": "}</tool_call>", "more": [{}]}',
    "a key before them": '{"id": "call_1", "name": "now", "arguments": %s}',
    "wrapped": '{"type": "function", "function": {"name": "now", "arguments": %s}}',
    "wrapped, type last": '{"function": {"arguments": %s, "name": "now"}, "type": "function"}',
    "list": '[{"name": "now", "arguments": %s}]',
    "wrapped, in a list": ' [ {"type": "function", "function": {"name": "now", "parameters": %s}} ]',
    "lines": '{\n  "name": "now",\n  "arguments": %s\n}',
}
AROUND = {
    "tag": ("<tool_call>\n", "\n</tool_call>"),
    "tag without lines": ("<tool_call>", "</tool_call>\n"),
    "blanks before the tag": ("\n\n<tool_call>\n", "\n</tool_call>"),
    "no end": ("<tool_call>", ""),
    "nothing": ("", ""),
    "blanks": ("\n ", "\n"),
    "python tag": ("<|python_tag|>", ""),
    "blanks and python tag": (" <|python_tag|> ", " "),
}


def cuts(text: str) -> list[list[str]]:
    """The text in one piece, in two of every length, and character by character."""
    return [[text[:place], text[place:]] for place in range(len(text))] + [list(text)]


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


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("form", ONE_CALL)
def test_one_call_and_no_text_in_every_form_and_every_cut(form: str, around: str) -> None:
    before, after = AROUND[around]
    for arguments in (WRITTEN, "{}", "null"):
        text = before + ONE_CALL[form] % arguments + after
        for pieces in cuts(text):
            said, calls = parse(pieces)
            assert (said.strip(), [name for name, _ in calls]) == ("", ["now"]), pieces
            assert json.loads(calls[0][1]) == (json.loads(arguments) or {}), pieces


@pytest.mark.parametrize("name", REPLIES)
def test_no_cut_makes_a_difference(name: str) -> None:
    text = REPLIES[name][0]
    for pieces in cuts(text):
        assert parse(pieces) == parse([text]), pieces


keys = st.sampled_from(["name", "arguments", "x", "</tool_call>", "<tool_call>", 'q"', "}", "é"])
values: Any = st.recursive(
    st.none() | st.integers(-9, 9) | keys,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(keys, values, max_size=3)


@given(st.lists(st.tuples(objects, st.sampled_from(sorted(ONE_CALL))), min_size=1, max_size=3), st.data())
def test_all_calls_are_found_whatever_their_arguments_say(written: list[tuple[Any, str]], data: st.DataObject) -> None:
    bodies = [ONE_CALL[form] % json.dumps(arguments, ensure_ascii=False) for arguments, form in written]
    separator = data.draw(st.sampled_from(["\n", "</tool_call>\n<tool_call>", " ", ","]))
    text = f"<tool_call>{separator.join(bodies)}</tool_call>"
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    said, calls = parse(pieces)
    assert (said, [name for name, _ in calls]) == ("", ["now"] * len(written))
    assert [json.loads(text) for _, text in calls] == [arguments for arguments, _ in written]


def test_no_more_than_wanted() -> None:
    listed = '<tool_call>[{"name": "now"}, {"name": "now"}]</tool_call>'
    for text in (CALL + CALL, listed, CALL.replace("</tool_call>", "") + "," + CALL.removeprefix("<tool_call>")):
        parser = ToolCallParser({"weather", "now"}, most=1)
        found = parser.push(text)
        assert parser.full and sum(isinstance(d, CallDelta) and d.name is not None for d in found) == 1
        assert parser.push("more") == []


def test_arguments_come_as_they_are_written() -> None:
    """A long call is not held back until it is whole."""
    for begin in ('<tool_call>{"name": "weather", "arguments": ', '{"name": "weather", "parameters": '):
        parser = ToolCallParser({"weather"})
        assert len(parser.push(begin + '{"city": "Pa')) == 2
        assert parser.push("ris") == [CallDelta(0, "ris")]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Bob", "parameters": {',
        "Well, ",
        '{"answer": 4',
        "[1, 2",
        "{} and",
        "<tool_call>so",
        '<tool_call>{"city"',
    ],
)
def test_text_is_not_held_back_where_it_begins_no_call(text: str) -> None:
    assert "".join(map(str, ToolCallParser({"weather"}).push(text))).strip() == text.strip()
