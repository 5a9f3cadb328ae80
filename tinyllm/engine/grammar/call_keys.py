"""Arguments that are written key by key, as in XML: which schemas can be held so, and as which rules.

A text stands without quotes, and whatever else as JSON. Tags within either would be taken for the end, so texts have
none, and strings in JSON no `<`. A schema of which that cannot be said is written as JSON in whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm.engine.grammar.closed_schema import closed_schema
from tinyllm.engine.grammar.schema_lookup import keys_of

_KEY = re.compile(r"[^<>\s](?:[^<>\n]*[^<>\s])?")
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
_NO_TAG = "^[^<]*$"


@dataclass(frozen=True)
class KeyForm:
    """What stands around a key and its value; ends: beginnings of tags, one of which would end a text too early.

    begin: has the key in place of `{}`.
    """

    begin: tuple[str, str]
    end: str
    ends: tuple[str, ...]


def argument_kinds(schema: Any) -> set[str]:
    """The types that a schema names, also as alternatives."""
    if not isinstance(schema, Mapping):
        return set()
    kinds = schema.get("type")
    found = {kinds} if isinstance(kinds, str) else {*kinds} if isinstance(kinds, list) else set()
    for alternatives in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(alternatives, list):
            found |= {kind for entry in alternatives if isinstance(entry, Mapping) for kind in [entry.get("type")]}
    return {kind for kind in found if isinstance(kind, str)}


def rules_by_key(schema: Any, name: str, form: KeyForm, term: Callable[[Any], str]) -> dict[str, str] | None:
    """Rules for an object that a schema validates, the first by the name that is given; None where it cannot be said.

    term: of JSON that a schema validates.
    """
    if _says_nothing_of_keys(schema):
        return {name: f"{name}_pair*", f"{name}_pair": f"{_quoted(form.begin[0])} KEY {_quoted(form.begin[1])} text"}
    schema = closed_schema(schema)
    if schema.get("additionalProperties") is not False or keys_of(schema) - {*_OBJECT, "nullable"}:
        return None
    rules: dict[str, str] = {}
    pairs = []
    for number, (key, value) in enumerate(schema.get("properties", {}).items()):
        said = _value(value, form, term) if _KEY.fullmatch(key) else None
        if said is None:
            return None
        rules[f"{name}_{number}"] = f"{_quoted(form.begin[0] + key + form.begin[1])} {said}"
        pairs.append(f"{name}_{number}" + ("" if key in schema.get("required", ()) else "?"))
    return {name: " ".join(pairs) or '""', **rules}


def shared_rules(form: KeyForm) -> dict[str, str]:
    """What rules by key refer to: a text, and any key."""
    ends = "|".join(re.escape(tag).replace("/", r"\/") for tag in form.ends)
    return {"text[lazy]": f"(/(?s:.*)/ & ~/(?s:.*({ends}).*)/) {_quoted(form.end)}", "KEY": "/[A-Za-z0-9_.-]{1,64}/"}


_OBJECT = {"type", "properties", "required", "additionalProperties"}


def _says_nothing_of_keys(schema: Any) -> bool:
    others = schema.get("additionalProperties", True)
    return others is True and keys_of(schema) <= {"type", "nullable", "additionalProperties"}


def _value(schema: Any, form: KeyForm, term: Callable[[Any], str]) -> str | None:
    """A value and what ends it; None where its type would not be told from the text."""
    if schema is True or schema == {} or (isinstance(schema, dict) and not keys_of(schema)):
        return "text"
    if not isinstance(schema, dict):
        return None
    kinds = argument_kinds(schema)
    if values := _choices(schema):
        told_apart = not kinds or ("string" in kinds and kinds <= {"string", "null"})
        if any(set(value) & {"<", "\n"} for value in values) or not told_apart:
            return None
        return f"({' | '.join(map(_quoted, values))}) {_quoted(form.end)}"
    if "string" in kinds:
        plain = keys_of(schema) == {"type"} or (
            keys_of(schema) == {"anyOf"} and all(keys_of(each) == {"type"} for each in schema["anyOf"])
        )
        return "text" if plain else None
    tagless = _tagless(schema) if kinds else None
    return None if tagless is None else f"({term(tagless)}) {_quoted(form.end)}"


def _choices(schema: dict[str, Any]) -> list[str]:
    """The texts of which a value is one, null among them; none where it may be something else."""
    values: list[str] = []
    for branch in schema["anyOf"] if keys_of(schema) == {"anyOf"} else [schema]:
        stated = branch.get("enum", [branch["const"]] if "const" in branch else ()) if isinstance(branch, dict) else ()
        if keys_of(branch) == {"type"} and branch["type"] == "null":
            values.append("null")
        elif not stated or keys_of(branch) - {"type", "enum", "const"} or not all(map(_is_no_null, stated)):
            return []
        else:
            values += stated
    return values if len({*values}) == len(values) else []


def _is_no_null(value: Any) -> bool:
    """Whether it is a text, and one that is not read as null."""
    return isinstance(value, str) and value.strip() != "null"


def _tagless(schema: Any) -> dict[str, Any] | None:
    """A schema whose strings have no `<`; None where that cannot be said."""
    if not isinstance(schema, dict) or not keys_of(schema):
        return None
    if keys_of(schema) == {"anyOf"}:
        inner = [_tagless(each) for each in schema["anyOf"]]
        return None if None in inner else {**schema, "anyOf": inner}
    kinds = {schema["type"]} if isinstance(schema.get("type"), str) else {*schema.get("type", ())}
    if not kinds or keys_of(schema) - {*_OBJECT, *_LIMITS, "items", "enum", "const"}:
        return None
    said = dict(schema)
    if {"enum", "const"} & schema.keys():
        return None if "<" in json.dumps([schema.get("enum"), schema.get("const")]) else said
    if "string" in kinds:
        said["pattern"] = _NO_TAG
    if "array" in kinds:
        items = _tagless(schema.get("items"))
        if items is None:
            return None
        said["items"] = items
    if "object" in kinds:
        properties = {key: _tagless(value) for key, value in schema.get("properties", {}).items()}
        if schema.get("additionalProperties") is not False or None in properties.values() or "<" in "".join(properties):
            return None
        said["properties"] = properties
    return said


def _quoted(text: str) -> str:
    return json.dumps(text)
