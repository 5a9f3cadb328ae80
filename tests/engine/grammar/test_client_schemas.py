"""Schemas as zod and pydantic write them: what comes out validates, what validates can come out."""

from __future__ import annotations

import datetime
import enum
import itertools
import json
import uuid
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import jsonschema_rs
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.grammar.replies import (
    accepts,
    assert_refused,
    parsed,
    reply,
    request,
    validates,
    without_other_keys,
)
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.errors import InvalidInputError

pytest.importorskip("llguidance")

SHORT = {"type": "string", "maxLength": 3}
NODE = {
    "type": "object",
    "properties": {"v": SHORT, "kids": {"type": "array", "maxItems": 2, "items": {"$ref": "#"}}},
    "required": ["v"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "record": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}},
    "record of names": {
        "type": "object",
        "propertyNames": {"type": "string", "enum": ["a", "b"]},
        "additionalProperties": {"type": "integer"},
        "required": ["a", "b"],
    },
    "record of some names": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": SHORT},
    "record of a referred name": {
        "$defs": {"Key": {"title": "Key", "enum": ["a", "b"], "type": "string"}},
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/Key"},
        "additionalProperties": True,
    },
    "record of one name": {"type": "object", "propertyNames": {"const": "a"}},
    "names beside properties": {
        "type": "object",
        "properties": {"b": {"type": "null"}, "c": {"type": "null"}},
        "propertyNames": {"enum": ["a", "b"]},
        "additionalProperties": {"type": "integer"},
    },
    "names and nothing else": {
        "type": "object",
        "properties": {"b": {"type": "integer"}},
        "propertyNames": {"enum": ["a", "b"]},
        "additionalProperties": False,
    },
    "record of a pattern": {
        "type": "object",
        "propertyNames": {"type": "string", "pattern": "^x_", "format": "starts_with"},
        "additionalProperties": {"type": "integer"},
    },
    "record of long names": {
        "type": "object",
        "propertyNames": {"minLength": 2, "maxLength": 3},
        "additionalProperties": {"type": "integer"},
    },
    "record of dates": {"type": "object", "propertyNames": {"format": "date"}, "additionalProperties": True},
    "record of ids": {"type": "object", "propertyNames": {"format": "uuid"}, "additionalProperties": {"type": "null"}},
    "names of anything": {"propertyNames": {"pattern": "^x"}, "type": ["object", "null", "integer"]},
    "set": {"type": "array", "uniqueItems": True, "items": {"type": "string", "enum": ["a", "b", "c"]}},
    "set of some": {
        "type": "array",
        "uniqueItems": True,
        "items": {"enum": ["a", 1, None]},
        "maxItems": 2,
        "minItems": 1,
    },
    "set of referred": {
        "$defs": {"E": {"enum": ["a", "b"], "title": "E", "type": "string"}},
        "items": {"$ref": "#/$defs/E"},
        "type": "array",
        "uniqueItems": True,
    },
    "set of truths": {"items": {"type": "boolean"}, "type": ["array", "string"], "uniqueItems": True, "maxLength": 1},
    "set of one": {"type": "array", "uniqueItems": True, "items": SHORT, "maxItems": 1},
    "set of too many": {
        "anyOf": [{"type": "null"}, {"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True}]
    },
    "anything unique": {"items": {"enum": ["a", "b"]}, "uniqueItems": True, "type": ["array", "boolean", "object"]},
    "not unique": {"type": "array", "uniqueItems": False, "items": {"enum": [1]}},
    "unique, no array": {"type": "string", "uniqueItems": True, "maxLength": 3},
    "never": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"not": {}}},
        "additionalProperties": False,
    },
    "undefined in a union": {"anyOf": [SHORT, {"type": "integer"}, {"not": {}}]},
    "not never": {"type": "integer", "not": False},
    "tuple": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [SHORT, {"type": "integer"}],
        "minItems": 2,
        "maxItems": 2,
    },
    "tuple with a rest": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "minItems": 1,
        "items": [SHORT],
        "additionalItems": {"type": "integer"},
    },
    "closed tuple": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [SHORT],
        "additionalItems": False,
    },
    "exclusive": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "integer",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 3,
        "exclusiveMaximum": False,
    },
    "union by a tag": {
        "oneOf": [
            {"type": "object", "properties": {"a": {"const": "a"}, "b": {}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {"type": "string", "const": "b"}}, "required": ["a"]},
        ],
        "discriminator": {"propertyName": "a", "mapping": {"a": "#/$defs/A"}},
    },
    "union by a tag that may be left out": {
        "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
        "discriminator": {"propertyName": "a"},
        "$defs": {
            "A": {"type": "object", "properties": {"a": {"const": "a"}, "b": {"type": "integer"}}},
            "B": {"type": "object", "properties": {"a": {"const": "b"}, "b": {"$ref": "#"}}},
        },
    },
    "recursive union": {
        "$defs": {
            "A": {"type": "object", "properties": {"a": {"const": "a"}}, "required": ["a"]},
            "B": {"type": "object", "properties": {"a": {"const": "b"}, "b": {"$ref": "#"}}, "required": ["a"]},
        },
        "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
    },
    "recursive": NODE,
    "named and recursive": {
        "$ref": "#/definitions/Node",
        "definitions": {"Node": json.loads(json.dumps(NODE).replace('"#"', '"#/definitions/Node"'))},
        "$schema": "https://json-schema.org/draft/2019-09/schema#",
    },
    "referred to where it stands": {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"n": SHORT}}, "b": {"$ref": "#/properties/a"}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "annotated": {
        "$id": "https://example.com/a",
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "none",
        "title": "A",
        "description": "Says it.",
        "default": "ab",
        "example": "ab",
        "examples": ["ab"],
        "x-order": 3,
        "readOnly": True,
        "type": "string",
        "format": "password",
        "maxLength": 3,
    },
    "formats that say nothing": {"type": ["integer", "string"], "format": "int32", "maxLength": 3},
    "open": {"type": "object", "properties": {"a": SHORT}, "additionalProperties": {}},
    "others of a kind": {"type": "object", "properties": {"a": SHORT}, "additionalProperties": {"type": "integer"}},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": SHORT}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    "with null": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
    "kinds": {"type": ["string", "null"], "enum": ["a", None]},
    "addresses": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "date"}]},
}
NULLABLE: dict[str, tuple[Any, Any]] = {
    "a kind": ({"type": "integer"}, {"type": ["integer", "null"]}),
    "an enum": ({"type": "string", "enum": ["a"]}, {"enum": ["a", None]}),
    "a const": ({"const": 3}, {"enum": [3, None]}),
    "an object": (NODE | {"type": "object"}, {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}),
    "a union": ({"anyOf": [SHORT, {"type": "integer"}]}, {"anyOf": [SHORT, {"type": "integer"}, {"type": "null"}]}),
    "all of": ({"allOf": [SHORT]}, {"anyOf": [SHORT, {"type": "null"}]}),
    "a reference": ({"$ref": "#/$defs/N"}, {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}),
    "null already": ({"type": ["integer", "null"]}, {"type": ["integer", "null"]}),
    "anything": ({}, {}),
}
SCALARS: list[Any] = ["", "a", "b", "x_a", "ab", "abcd", 0, 1, 3, -2, None, True, False, "1.2.3.4", "2024-02-29"]
DOCUMENTS: list[Any] = [
    *SCALARS,
    *(list(items) for length in range(4) for items in itertools.product(["a", "b", 1, None, True], repeat=length)),
    *({name: value} for name in ("a", "b", "c", "x_1", "zzzz") for value in ("a", "b", 1, None, {})),
    *({"a": first, "b": second} for first in ("a", 1, {}) for second in ("a", 1, None, {"n": "a"})),
    *(
        {f"{year}-{day}": 1}
        for year in (1900, 2000, 2023, 2024)
        for day in ("02-28", "02-29", "02-30", "04-31", "12-31")
    ),
    {"0c0d4a0e-7f8b-4b7c-9d0e-1f2a3b4c5d6e": None},
    {},
    {"b": 1, "c": None},
    {"x_1": 1, "x_2": 2},
    {"v": "a"},
    {"v": "a", "kids": []},
    {"v": "a", "kids": [{"v": "b", "kids": [{"v": "c"}]}, {"v": "d"}]},
    {"v": "a", "kids": [{"v": 1}]},
]


def in_any_order(document: Any) -> list[Any]:
    """A document, and the same with its keys in other orders: replies have theirs in that of the schema."""
    if isinstance(document, dict):
        return [dict(items) for items in itertools.permutations(document.items())]
    return [document]


def assert_same_values(grammars: Grammars, schema: Any, judged: Any) -> None:
    """The grammar takes those of many documents that a validator takes, and random replies under it validate."""
    grammar = Grammar.json_schema(schema)
    taken = 0
    for document in DOCUMENTS:
        valid = validates(document, judged)
        found = [accepts(grammars, grammar, json.dumps(d, separators=(",", ":"))) for d in in_any_order(document)]
        assert any(found) == valid, document
        taken += valid
    assert taken, "no document shows what the schema takes"
    for seed in range(8):
        tested = request(grammars, grammar, seed=seed, max_tokens=400)
        text = reply(tested, seed)
        if tested.finish_reason == "stop":
            assert validates(parsed(text), judged), text


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_values_are_those_of_a_validator(grammars: Grammars, name: str) -> None:
    # OpenAPI wants a discriminator to be there, which its schemas do not say
    tag = {"required": ["a"]} if "left out" in name else {}
    closed = SCHEMAS[name] if name == "all of" else without_other_keys(SCHEMAS[name])
    assert_same_values(grammars, SCHEMAS[name], closed | tag)


@pytest.mark.parametrize("name", NULLABLE)
def test_nullable_takes_null_too(grammars: Grammars, name: str) -> None:
    schema, judged = NULLABLE[name]
    node = json.loads(json.dumps(NODE).replace('"#"', '"#/$defs/N"'))
    if name == "an object":
        schema = node
    assert_same_values(grammars, {"$defs": {"N": node}, **schema, "nullable": False}, {"$defs": {"N": node}, **schema})
    assert_same_values(
        grammars,
        {"$defs": {"N": node}, **schema, "nullable": True},
        judged | {"$defs": {"N": node}},
    )


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: Annotated[int, pydantic.Field(ge=1, le=9)]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    friend: Optional[Pet] = None  # noqa: UP045


Pet = Annotated[Union[Cat, Dog], pydantic.Field(discriminator="kind")]  # noqa: UP007
TYPES: dict[str, Any] = {
    "uuid": uuid.UUID,
    "uuid4": pydantic.UUID4,
    "date-time": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "decimal": Decimal,
    "address": IPv4Address,
    "url": Annotated[pydantic.HttpUrl, pydantic.Field(max_length=40)],
    "path": Path,
    "password": pydantic.SecretStr,
    "bytes": bytes,
    "base64": pydantic.Base64Bytes,
    "literals": set[Literal["a", "b", "c"]],
    "enums": frozenset[Colour],
    "few": Annotated[set[Literal["a", "b", "c"]], pydantic.Field(min_length=1, max_length=2)],
    "by literal": dict[Literal["a", "b"], int],
    "by enum": dict[Colour, int],
    "by pattern": dict[Annotated[str, pydantic.Field(pattern="^x_[a-z]$")], int],
    "by date": dict[datetime.date, int],
    "by id": dict[uuid.UUID, int],
    "by length": dict[Annotated[str, pydantic.Field(min_length=2, max_length=4)], int],
    "tuple": tuple[int, Annotated[str, pydantic.Field(max_length=3)]],
    "optional": int | None,
    "union by a tag": Pet,
    "list of models": Annotated[list[Dog], pydantic.Field(max_length=2)],
}
LOOSE = {"by date", "date-time", "date", "time", "url", "duration", "path", "decimal", "by pattern"}
"""Types that take less than the schema which pydantic gives for them."""
Dog.model_rebuild()


@pytest.mark.parametrize("name", TYPES)
def test_replies_under_pydantic_s_schema_are_values_of_its_type(grammars: Grammars, name: str) -> None:
    adapter = pydantic.TypeAdapter(TYPES[name])
    schema = adapter.json_schema()
    ended = 0
    for seed in range(25):
        tested = request(grammars, Grammar.json_schema(schema), seed=seed, max_tokens=400)
        text = reply(tested, seed)
        if tested.finish_reason == "stop":
            assert validates(parsed(text), schema), text
            ended += 1
            if name not in LOOSE:
                adapter.validate_json(text)
    assert ended >= 5


def test_schemas_in_schemas_do_not_multiply(grammars: Grammars) -> None:
    """Names, of which each would have a schema of its own, and arrays, which are written out."""
    schema: Any = {"type": "integer"}
    for _ in range(40):
        schema = {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": schema}
    assert accepts(grammars, Grammar.json_schema(schema), '{"a":' * 40 + "1" + "}" * 40)
    sets = {name: {"type": "array", "items": {"enum": [*"abcde"]}, "uniqueItems": True} for name in "abcdefg"}
    assert_refused(grammars, lambda: Grammar.json_schema({"properties": sets}), "uniqueItems: expected at most 2000")


def schemas_of(inner: Any) -> Any:
    """Schemas of the keywords above, well formed, each keyword with what it may meet."""
    name = st.sampled_from(["a", "b", "v"])
    keywords: dict[str, Any] = {
        "type": st.sampled_from(["object", "array", "string", "integer", "null"]),
        "enum": st.lists(st.sampled_from(["a", "b", 1, None]), min_size=1, max_size=3),
        "properties": st.dictionaries(name, inner, max_size=2),
        "required": st.lists(name, max_size=2, unique=True),
        "additionalProperties": inner,
        "propertyNames": st.sampled_from([{"enum": ["a", "b"]}, {"type": "string"}, {"pattern": "^x"}]) | inner,
        "items": inner,
        "uniqueItems": st.booleans(),
        "minItems": st.integers(0, 2),
        "maxItems": st.integers(0, 3),
        "maxLength": st.integers(0, 2),
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "oneOf": st.lists(inner, min_size=1, max_size=2),
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "not": st.sampled_from([{}, False]),
        "$defs": st.fixed_dictionaries({"A": inner}),
        "$ref": st.sampled_from(["#", "#/$defs/A", "#/properties/a"]),
    }
    names = st.lists(st.sampled_from(sorted(keywords)), max_size=5, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: keywords[name] for name in chosen}))


@settings(deadline=None, max_examples=100)
@given(st.recursive(st.booleans() | st.just({}), schemas_of, max_leaves=8), st.data())
def test_a_schema_is_refused_or_held_as_it_is(grammars: Grammars, schema: Any, data: st.DataObject) -> None:
    try:
        grammar = Grammar.json_schema(schema)
        grammars.start(grammar)
        validates(None, schema)
    except (
        InvalidInputError,
        jsonschema_rs.ValidationError,
    ):  # refused, or a reference that leads nowhere where nobody follows it
        return
    for document in data.draw(st.lists(st.sampled_from(DOCUMENTS), min_size=15, max_size=15)):
        found = [accepts(grammars, grammar, json.dumps(d, separators=(",", ":"))) for d in in_any_order(document)]
        if any(found):
            assert validates(document, schema), document
        elif validates(document, without_other_keys(schema)):
            assert not validates(document, schema), document
    tested = request(grammars, grammar, seed=1, max_tokens=100)
    text = reply(tested, 1)
    assert tested.finish_reason == "length" or validates(parsed(text), schema), text
