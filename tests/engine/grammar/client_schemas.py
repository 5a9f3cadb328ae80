"""Schemas as zod and pydantic write them, and documents that tell them apart."""

from __future__ import annotations

import itertools
import json
from typing import Any

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
