"""Calls in the forms of the families: found however the text is cut, and text where they are none."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from tinyllm.openai.call_parts import CallDelta
from tinyllm.openai.tool_calls import ToolCallParser

PARIS: list[tuple[str, Any]] = [("weather", {"city": "Paris", "days": 3})]
BOTH = [*PARIS, ("now", {})]
SCHEMAS = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "units": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "tags": {"type": ["array", "null"]},
        },
    },
    "now": None,
}
NAMED = '{"name": "weather", "arguments": {"city": "Paris", "days": 3}}'
NOW = '{"name": "now", "arguments": {}}'
PARAMETERS = "<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
ARGUMENTS = "<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
FAMILIES: dict[str, tuple[str, list[tuple[str, Any]]]] = {
    "Mistral, a list": (f"[TOOL_CALLS][{NAMED}, {NOW}]", BOTH),
    "Mistral, names": ('[TOOL_CALLS]weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]now[ARGS]{}', BOTH),
    "Mistral, ids": ('[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Paris", "days": 3}', PARIS),
    "Mistral, without tags": ('[TOOL_CALLS]weather{"city": "Paris", "days": 3}', PARIS),
    "Qwen3": (f"<tool_call>\n{NAMED}\n</tool_call>\n<tool_call>\n{NOW}\n</tool_call>", BOTH),
    "Qwen3-Coder": (
        f"<tool_call>\n<function=weather>\n{PARAMETERS}</function>\n</tool_call>\n"
        "<tool_call>\n<function=now>\n</function>\n</tool_call>",
        BOTH,
    ),
    "Qwen3-Coder, without tags": (f"<function=weather>\n{PARAMETERS}</function>\n</tool_call>", PARIS),
    "Qwen3-Coder, unclosed": ("<tool_call><function=weather>" + PARAMETERS.replace("\n</parameter>", ""), PARIS),
    "Qwen3-Coder, a text of lines": (
        "<tool_call><function=weather>\n<parameter=city>\n\n a\nb \n</parameter></function></tool_call>",
        [("weather", {"city": "\n a\nb "})],
    ),
    "types": (
        "<function=weather><parameter=city>7</parameter><parameter=units>null</parameter>"
        '<parameter=tags>["a"]</parameter><parameter=days>many</parameter><parameter=x>1</parameter></function>',
        [("weather", {"city": "7", "units": None, "tags": ["a"], "days": "many", "x": "1"})],
    ),
    "Llama, python tag": (f"<|python_tag|>{NAMED.replace('arguments', 'parameters')}", PARIS),
    "Llama, function": ('<function=weather>{"city": "Paris", "days": 3}</function>', PARIS),
    "GLM-4.5": (
        f"<tool_call>weather\n{ARGUMENTS}</tool_call>\n<tool_call>now\n</tool_call>",
        BOTH,
    ),
    "GLM-4.7": (f"<tool_call>weather{ARGUMENTS}</tool_call><tool_call>now</tool_call>".replace("\n", ""), BOTH),
    "GLM-4": ('weather\n{"city": "Paris", "days": 3}', PARIS),
    "Phi-4-mini": (f"functools[{NAMED}, {NOW}]", BOTH),
    "Phi-4-mini, tags": (f"<|tool_call|>[{NAMED}, {NOW}]<|/tool_call|>", BOTH),
    "Granite": (f"<|tool_call|>[{NAMED}, {NOW}]", BOTH),
    "Granite 3.1": (f"<tool_call>[{NAMED}, {NOW}]", BOTH),
    "Cohere": (
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", "parameters": {"city": "Paris", "days": '
        '3}},\n    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
        BOTH,
    ),
    "Gemma 4": (
        '<|tool_call>call:weather{city:<|"|>Paris<|"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>',
        BOTH,
    ),
    "Gemma 4's values": (
        '<|tool_call>call:weather{city:<|"|>a "b", c: {d}\n<|"|>, days : -1.5e3, units:null,'
        'tags:[true,{x-y:[],z:<|"|><|"|>}]}<tool_call|>',
        [("weather", {"city": 'a "b", c: {d}\n', "days": -1500, "units": None, "tags": [True, {"x-y": [], "z": ""}]})],
    ),
    "LFM2": ('<|tool_call_start|>[weather(city="Paris", days=3), now()]<|tool_call_end|>', BOTH),
    "LFM2, JSON": (f"<|tool_call_start|>[{NAMED}]<|tool_call_end|>", PARIS),
    "OLMo 3": ('<function_calls>weather(city="Paris", days=3)\nnow()</function_calls>', BOTH),
    "Python's values": (
        '<|tool_call_start|>[weather(city=["a", {"b": null}], days=-1.5, units=True, tags=false)]<|tool_call_end|>',
        [("weather", {"city": ["a", {"b": None}], "days": -1.5, "units": True, "tags": False})],
    ),
}
NO_CALLS = [
    "[TOOL_CALLS]later",
    "[TOOL_CALLS]rm[ARGS]{}",
    '[TOOL_CALLS]now[ARGS]{} and "more"',
    "[TOOL_CALLS][1]",
    "<function=rm></function>",
    "<function=now>x</function>",
    "<function=now>{</function>",
    "<tool_call>nowhere</tool_call>",
    "<tool_call>weather report</tool_call>",
    "functools[partial]",
    "functools.partial and <|tool_",
    "<|tool_call|>[{]",
    "<|tool_call>call:rm{}<tool_call|>",
    "<|tool_call>now{}<tool_call|>",
    "<|tool_call>call:now[]<tool_call|>",
    "<|tool_call>call:now{} and more<tool_call|>",
    '<|tool_call>call:now{a:<|"|>b}<tool_call|>',
    "<|tool_call>call:now{a:b}<tool_call|>",
    '<|START_ACTION|>{"tool_name": 3}<|END_ACTION|>',
    "<|tool_call_start|>[now(1)]<|tool_call_end|>",
    "<|tool_call_start|>[now(**x)]<|tool_call_end|>",
    "<|tool_call_start|>[now(a=open())]<|tool_call_end|>",
    "<|tool_call_start|>[now(a={1, 2})]<|tool_call_end|>",
    "<|tool_call_start|>now(" + "(" * 300 + "<|tool_call_end|>",
    "<function_calls>import now</function_calls>",
    "now\nor never",
    "weather",
]


def parse(pieces: list[str], **settings: Any) -> tuple[str, list[tuple[str, Any]]]:
    """(text, calls)"""
    numbers = count()
    parser = ToolCallParser(SCHEMAS, new_id=lambda: f"id{next(numbers)}", schemas=SCHEMAS, **settings)
    text, names, arguments = "", [], []
    for number, piece in enumerate(pieces):
        for part in parser.push(piece, last=number == len(pieces) - 1):
            if isinstance(part, CallDelta):
                names += [] if part.name is None else [part.name]
                arguments += [] if part.name is None else [""]
                arguments[part.index] += part.arguments
            else:
                text += part
    return text, list(zip(names, map(json.loads, arguments), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_of_the_families_are_found_in_every_cut(family: str) -> None:
    written, calls = FAMILIES[family]
    for pieces in [list(written), *([written[:place], written[place:]] for place in range(len(written)))]:
        assert parse(pieces) == ("", calls), pieces
    if family != "GLM-4" and not written.startswith("<|python_tag|>"):
        assert parse([f"Let me see.\n{written}"]) == ("Let me see.", calls)


@pytest.mark.parametrize("written", NO_CALLS)
def test_what_is_no_call_is_text(written: str) -> None:
    assert parse([written]) == parse(list(written)) == (written, [])


@pytest.mark.parametrize("family", [name for name, (_, calls) in FAMILIES.items() if len(calls) > 1])
def test_there_is_one_call_where_one_is_wanted(family: str) -> None:
    assert parse([FAMILIES[family][0]], most=1)[1] == FAMILIES[family][1][:1]


@pytest.mark.parametrize("form", ["exact", "tagged"])
def test_a_grammar_knows_none_of_these_forms(form: str) -> None:
    for family, (written, _) in FAMILIES.items():
        if not family.startswith(("Qwen3", "Llama, python", "Granite 3.1")) or "Coder" in family:
            assert parse([written], form=form)[1] == [], family
