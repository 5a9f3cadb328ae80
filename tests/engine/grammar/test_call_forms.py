"""Calls in the families' own forms, held by a grammar: what is written is read back, with the right types, and a wrong
call cannot be written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.grammar.replies import SPECIAL, accepts, request, tokenizer, validates
from tinyllm.engine.grammar.call_forms import FORMS, form_of
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.models.text.call_tags import BEGIN
from tinyllm.openai.call_parts import CallDelta
from tinyllm.openai.tool_calls import ToolCallParser

pytest.importorskip("llguidance")
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "maximum": 9},
        "unit": {"enum": ["C", "F"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "wind": {"anyOf": [{"type": "string", "enum": ["N"]}, {"type": "null"}]},
        "near": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city"],
}
SCHEMAS: dict[str, Any] = {
    "weather": WEATHER,
    "now.utc": {"type": "object", "properties": {}, "additionalProperties": False},
    "any": {"type": "object"},
}
ROME = {"city": "L'île \"d'Yeu\"\n<b>", "days": 3, "unit": "F", "tags": ["a", "é"], "wind": "N", "near": None}


def calls_in(text: str, form: str, schemas: dict[str, Any], **settings: Any) -> tuple[str, list[tuple[str, Any]]]:
    """(text, calls) of a reply, as the parser reads it that knows its form."""
    begin: Any = "within" if FORMS[form].begin == BEGIN else FORMS[form].begin
    parser, said, names, arguments = ToolCallParser(schemas, form=begin, schemas=schemas, **settings), "", [], []
    for part in parser.push(text, last=True):
        if isinstance(part, CallDelta):
            names += [] if part.name is None else [part.name]
            arguments += [] if part.name is None else [""]
            arguments[part.index] += part.arguments
        else:
            said += part
    return said, list(zip(names, map(json.loads, arguments), strict=True))


def written(form: str, *calls: tuple[str, dict[str, Any]]) -> str:
    """Calls as a model of the family writes them."""
    objects = [{"name": name, "arguments": arguments} for name, arguments in calls]
    as_text = [
        {key: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for key, v in each.items()}
        for _, each in calls
    ]
    if form == "mistral":
        return "".join(
            f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments, ensure_ascii=False)}" for name, arguments in calls
        )
    if form == "qwen_xml":
        bodies = ["".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in each.items()) for each in as_text]
        pairs = zip(calls, bodies, strict=True)
        return "\n".join(
            f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>" for (name, _), body in pairs
        )
    if form == "glm":
        keys = ["".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in a.items()) for a in as_text]
        pairs = zip(calls, keys, strict=True)
        return "\n".join(f"<tool_call>{name}\n{body}</tool_call>" for (name, _), body in pairs)
    if form == "cohere":
        objects = [{"tool_call_id": "0", "tool_name": c["name"], "parameters": c["arguments"]} for c in objects]
    listed = json.dumps(objects, ensure_ascii=False)
    return FORMS[form].begin + (listed[1:] if form == "functools" else listed) + FORMS[form].end


def held(form: str, text: bool = False, several: bool = True, schemas: dict[str, Any] = SCHEMAS) -> Grammar:
    return Grammar.calls({name: Grammar.arguments(s) for name, s in schemas.items()}, text, several, form)


@pytest.mark.parametrize("form", FORMS)
def test_right_calls_are_taken_and_read_back(form: str, grammars: Grammars) -> None:
    calls = [("weather", ROME), ("now.utc", {}), ("any", {"a": "b"})]
    once, twice = written(form, calls[0]), written(form, *calls)
    for text in (False, True):
        assert accepts(grammars, held(form, text), once) and accepts(grammars, held(form, text), twice)
        alone = held(form, text, several=False)
        assert accepts(grammars, alone, once) and not accepts(grammars, alone, twice)
    assert calls_in(twice, form, SCHEMAS) == ("", calls)
    said = f"Let me see.\n{once}"
    assert accepts(grammars, held(form, True), said) and not accepts(grammars, held(form), said)
    assert calls_in(said, form, SCHEMAS) == ("Let me see.", calls[:1])
    assert accepts(grammars, held(form, True), "Hello [TOOL <tool_cal") and not accepts(grammars, held(form), "Hello")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name, arguments",
    [
        ("rm", {}),
        ("weather", {}),
        ("weather", {"city": "Rome", "days": "many"}),
        ("weather", {"city": "Rome", "days": 10}),
        ("weather", {"city": "Rome", "unit": "K"}),
        ("weather", {"city": "Rome", "tags": [1]}),
        ("weather", {"city": "Rome", "size": 1}),
        ("now.utc", {"zone": "x"}),
        ("weather", {"city": "Rome", "wind": "S"}),
    ],
    ids=str,
)
def test_a_wrong_call_cannot_be_written(form: str, name: str, arguments: dict[str, Any], grammars: Grammars) -> None:
    for text in (False, True):
        assert not accepts(grammars, held(form, text), written(form, (name, arguments)))
        assert not accepts(grammars, held(form, text), f"{FORMS[form].begin}later")


_LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "minimum": -3, "maximum": 99},
        {"type": "boolean"},
        {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        {"enum": ["a", "b c"]},
        {"enum": [1, "1", None]},
        {"const": 7},
        {"anyOf": [{"enum": ["7", "C"]}, {"type": "null"}]},
        {"type": ["string", "null"], "enum": ["null"]},
        {"anyOf": [{"type": "string", "enum": ["C", "F"]}, {"type": "null"}]},
        {"type": "string", "pattern": "^[ab]{1,3}$"},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"}]},
        {"type": ["string", "boolean"]},
        {},
    ]
)


def _objects(values: Any) -> Any:
    named = st.dictionaries(st.sampled_from(["a", "b-c", "d e", "x<y"]), values, max_size=3)
    return named.flatmap(
        lambda properties: st.lists(st.sampled_from([*properties] or ["a"]), unique=True).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": [name for name in required if name in properties],
                "additionalProperties": False,
            }
        )
    )


_VALUES = st.recursive(
    _LEAVES, lambda inner: _objects(inner) | inner.map(lambda items: {"type": "array", "items": items, "maxItems": 2})
)


def steered(grammars: Grammars, grammar: Grammar, seed: int, end: str) -> tuple[str, str | None]:
    """A reply of random tokens that now and then begins to write a certain text, and why it ended."""
    tested, random = request(grammars, grammar, seed=seed, max_tokens=1500), np.random.default_rng(seed)
    text, waiting = "", b""
    while tested.finish_reason is None:
        logits = random.standard_normal(SPECIAL + 1).astype(np.float32) * 3
        waiting = waiting or (end.encode() if random.random() < 0.2 else b"")
        if waiting:
            logits[waiting[0]] += 1e4
            waiting = waiting[1:]
        text += tested.advance(logits).text
    return text, tested.finish_reason


_MADE = Grammars(tokenizer())


@pytest.mark.parametrize("form", FORMS)
def test_whatever_is_written_is_read_back_with_the_right_types(form: str) -> None:
    ended = []

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(schema=_objects(_VALUES), seed=st.integers(0, 999))
    def holds(schema: dict[str, Any], seed: int) -> None:
        schemas, keys = {"f": schema, "g.h": SCHEMAS["now.utc"]}, FORMS[form].keys
        text, why = steered(_MADE, held(form, schemas=schemas), seed, keys.end if keys else '"}')
        if why != "stop":
            return
        said, calls = calls_in(text, form, schemas)
        assert said.strip() == "" and calls, text
        for name, arguments in calls:
            assert validates(arguments, schemas[name]), text
        ended.append(any(arguments for _, arguments in calls))

    holds()
    assert sum(ended) >= 5


def test_a_schema_that_keys_cannot_say_is_held_as_json_between_the_same_tags(grammars: Grammars) -> None:
    schemas = {"f": {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}}
    for form in ("qwen_xml", "glm"):
        call = '<tool_call>\n{"name": "f", "arguments": {"day": "2026-01-31"}}\n</tool_call>'
        assert accepts(grammars, held(form, schemas=schemas), call)
        assert not accepts(grammars, held(form, schemas=schemas), call.replace("01-31", "01-32"))
        assert calls_in(call, form, schemas) == ("", [("f", {"day": "2026-01-31"})])


def test_what_is_written_without_quotes_has_no_ends_in_it(grammars: Grammars) -> None:
    for form in ("qwen_xml", "glm"):
        for end in (*(FORMS[form].keys or pytest.fail()).ends, "<b"):
            said = written(form, ("weather", {"city": f"a{end}> b"}))
            assert accepts(grammars, held(form, schemas={"weather": WEATHER}), said) == (end == "<b"), said
        assert not accepts(grammars, held(form), written(form, ("weather", {"city": "a", "tags": ["<b"]})))


def test_ends_within_json_are_no_ends() -> None:
    for form in ("cohere", "phi", "mistral", "mistral_list"):
        call = ("any", {"a": f"<|END_ACTION|><|/tool_call|>[TOOL_CALLS]{BEGIN}"})
        assert calls_in(written(form, call, call), form, SCHEMAS) == ("", [call, call])


def test_a_template_shows_its_form() -> None:
    shown = {name: form_of([f"{{{{ x }}}} {' '.join(form.shows)}"]) for name, form in FORMS.items()}
    assert shown == {name: name for name in FORMS}
    assert form_of([]) == form_of(['<tool_call>\n{"name": ']) == form_of(["<function=", "<parameter="]) == ""
