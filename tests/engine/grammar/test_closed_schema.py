"""Objects that name properties get no others, unless a schema says so or has to have some."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.grammar.replies import accepts, assert_refused, parsed, reply, request, validates, without_other_keys
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.errors import InvalidInputError

pytest.importorskip("llguidance")

A, B = {"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "null"}}}
OBJECT, NEEDS_A, NEEDS_B = {"type": "object"}, {"required": ["a"]}, {"required": ["b"]}
INNER = OBJECT | {"properties": {"o": OBJECT | A}, "required": ["o"]}
CLOSED: dict[str, Any] = {
    "an object": OBJECT | A,
    "no property": OBJECT | {"properties": {}},
    "of any type": A,
    "in an object": INNER,
    "in an open object": INNER | {"additionalProperties": True},
    "in an array": {"type": "array", "items": OBJECT | A},
    "in a tuple": {"type": "array", "prefixItems": [OBJECT | A], "items": False},
    "as other keys": OBJECT | {"additionalProperties": OBJECT | A},
    "of a union": {"anyOf": [OBJECT | A, {"type": "null"}], "default": None},
    "of a union by types": {"oneOf": [OBJECT | A, {"type": "null"}]},
    "of a union by a tag": {
        "oneOf": [
            OBJECT | {"properties": {"a": {"const": 1}, "b": {}}, "required": ["a"]},
            OBJECT | {"properties": {"a": {"const": "a"}}, "required": ["a"]},
        ]
    },
    "alone in allOf": {"allOf": [OBJECT | A], "title": "A"},
    "referred to": {"$ref": "#/$defs/A", "description": "one", "$defs": {"A": OBJECT | A}},
    "with a property that is needed": OBJECT | A | NEEDS_A | {"minProperties": 1},
}
OPEN: dict[str, Any] = {
    "any object": OBJECT,
    "anything": {},
    "said": OBJECT | A | {"additionalProperties": True},
    "of a kind": OBJECT | A | {"additionalProperties": {"type": "null"}},
    "by a pattern": OBJECT | A | {"patternProperties": {"^[bx]$": {"type": "null"}}},
    "names": OBJECT | A | {"propertyNames": {"enum": ["a", "b"]}},
    "needs another": OBJECT | A | NEEDS_B,
    "needs any": OBJECT | {"properties": {}, "minProperties": 1},
    "all of": {"allOf": [OBJECT | A | NEEDS_A, OBJECT | B | NEEDS_B]},
    "beside all of": OBJECT | A | {"allOf": [B | NEEDS_B]},
    "beside any of": OBJECT | A | {"anyOf": [B | NEEDS_B, NEEDS_A]},
    "needs beside any of": NEEDS_B | {"type": "object", "anyOf": [A, {"type": "null"}]},
    "beside one of": OBJECT | A | {"oneOf": [OBJECT | B | NEEDS_B]},
    "beside a reference": OBJECT | A | {"$ref": "#/$defs/B", "$defs": {"B": OBJECT | B | NEEDS_B}},
    "two unions": {"anyOf": [OBJECT | A | NEEDS_A], "oneOf": [OBJECT | B | NEEDS_B]},
    "beside its values": OBJECT | A | {"enum": [{"a": 1, "b": None}]},
    "in what all of describes": {
        "allOf": [INNER, OBJECT | {"properties": {"o": OBJECT | B | NEEDS_B}}],
    },
    "in an array that two describe": {"items": A | NEEDS_A, "type": "array", "anyOf": [{"items": B | NEEDS_B}]},
    "referred to from all of": {
        "allOf": [{"$ref": "#/$defs/A"}, OBJECT | B | NEEDS_B],
        "$defs": {"A": OBJECT | A},
    },
}
KEYS = {"a": [1, "a", None], "b": [None, 1], "c": [None]}
OBJECTS = [
    dict(zip(names, values, strict=True))
    for count in range(4)
    for names in itertools.permutations(KEYS, count)
    for values in itertools.product(*(KEYS[name] for name in names))
]
DOCUMENTS: list[Any] = [
    *OBJECTS,
    *({"o": value} for value in OBJECTS),
    *([value] for value in OBJECTS),
    *({"b": value} for value in OBJECTS),
    *({"o": {"a": 1}, "c": value} for value in OBJECTS),
    None,
    1,
    [],
]


def taken(grammars: Grammars, schema: Any) -> list[Any]:
    """The documents that the grammar of a schema takes, whatever the order of their keys."""
    grammar = Grammar.json_schema(schema)
    found = [d for d in DOCUMENTS if accepts(grammars, grammar, json.dumps(d, separators=(",", ":")))]
    return [d for d in DOCUMENTS if d in found]


@pytest.mark.parametrize("name", CLOSED)
def test_objects_have_no_keys_but_those_that_are_named(grammars: Grammars, name: str) -> None:
    schema = CLOSED[name]
    found, closed = taken(grammars, schema), without_other_keys(schema)
    assert found == [d for d in DOCUMENTS if validates(d, closed)]
    assert found and all(validates(d, schema) for d in found)
    assert any(validates(d, schema) for d in DOCUMENTS if d not in found), "its author left it open"
    for seed in range(5):
        tested = request(grammars, Grammar.json_schema(schema), seed=seed, max_tokens=400)
        text = reply(tested, seed)
        assert tested.finish_reason == "length" or validates(parsed(text), closed), text


@pytest.mark.parametrize("name", OPEN)
def test_objects_stay_open_where_that_is_said_or_needed(grammars: Grammars, name: str) -> None:
    schema = OPEN[name]
    found = taken(grammars, schema)
    assert found == [d for d in DOCUMENTS if validates(d, schema)]
    assert any(isinstance(d, (dict, list)) and d for d in found)


def test_other_keys_do_not_tell_alternatives_apart(grammars: Grammars) -> None:
    """Once closed, one of the two would take {"b": null}, which both take as they are."""
    schema = {"oneOf": [OBJECT | A, OBJECT | B | NEEDS_B]}
    assert not validates({"b": None}, schema)
    assert_refused(grammars, lambda: Grammar.json_schema(schema), "schema: .*oneOf constraints are not supported")


def test_a_definition_is_open_only_where_one_of_its_uses_needs_that(grammars: Grammars) -> None:
    both = {"allOf": [{"$ref": "#/$defs/A"}, OBJECT | B]}
    definitions = {"A": OBJECT | A | {"title": "A"}, "C": OBJECT | A}
    schema = OBJECT | {"properties": {"b": both, "o": {"$ref": "#/$defs/C"}}, "$defs": definitions}
    found = taken(grammars, schema)
    assert {"b": {"a": 1, "b": None}} in found and {"o": {"a": 1}} in found
    assert {"o": {"a": 1, "c": None}} not in found and {"o": {"a": 1}, "c": {}} not in found


def test_chains_of_references_are_followed_to_their_end(grammars: Grammars) -> None:
    chain = {f"D{n}": {"$ref": f"#/$defs/D{n + 1}"} for n in range(3000)} | {"D3000": OBJECT | A}
    Grammar.json_schema({"allOf": [{"$ref": "#/$defs/D0"}, OBJECT | B | NEEDS_B], "$defs": chain})


def objects_of(inner: Any) -> Any:
    """Schemas that describe objects together, apart, and as alternatives."""
    name, branches = st.sampled_from(["a", "b", "o"]), st.lists(inner, min_size=1, max_size=2)
    keywords: dict[str, Any] = {
        "type": st.sampled_from(["object", "object", "array", "null"]),
        "properties": st.dictionaries(name, inner, max_size=2),
        "required": st.lists(name, max_size=1),
        "minProperties": st.integers(0, 1),
        "maxProperties": st.integers(1, 2),
        "additionalProperties": inner,
        "patternProperties": st.fixed_dictionaries({"^b": inner}),
        "items": inner,
        "enum": st.just([1, None, {"a": 1, "b": None}]),
        "anyOf": branches,
        "oneOf": branches,
        "allOf": branches,
        "$defs": st.fixed_dictionaries({"A": inner}),
        "$ref": st.sampled_from(["#", "#/$defs/A", "#/properties/a"]),
    }
    names = st.lists(st.sampled_from(sorted(keywords)), max_size=4, unique=True).map(lambda some: {*some, "properties"})
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: keywords[name] for name in sorted(chosen)}))


LEAVES = st.sampled_from(
    [{"type": "integer"}, {"type": "null"}, {"const": 1}, {}, True, OBJECT | A, OBJECT | B | NEEDS_B]
)


@settings(deadline=None, max_examples=150)
@given(st.recursive(LEAVES, objects_of, max_leaves=8), st.data())
def test_what_comes_validates_and_a_schema_that_takes_something_keeps_some_of_it(
    grammars: Grammars, schema: Any, data: st.DataObject
) -> None:
    try:
        grammar = Grammar.json_schema(schema)
        valid = [d for d in DOCUMENTS if validates(d, schema)]
    except (InvalidInputError, jsonschema_rs.ValidationError):
        return
    try:
        grammars.start(grammar)
    except InvalidInputError as error:
        assert not valid or "that some text" not in str(error), "a schema lost all that it took"
        return
    for document in data.draw(st.lists(st.sampled_from(DOCUMENTS), min_size=20, max_size=20)):
        found = accepts(grammars, grammar, json.dumps(document, separators=(",", ":")))
        assert not found or document in valid, document
    tested = request(grammars, grammar, seed=1, max_tokens=100)
    text = reply(tested, 1)
    assert tested.finish_reason == "length" or validates(parsed(text), schema), text
