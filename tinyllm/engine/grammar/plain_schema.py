"""A JSON schema said again in the keywords that llguidance has: it accepts the same values, with objects closed."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any
from urllib.parse import quote

from tinyllm.engine.grammar.closed_schema import closed_schema
from tinyllm.engine.grammar.schema_lookup import (
    LISTED,
    NAMED,
    SINGLE,
    is_annotation,
    keys_of,
    tag_of,
    target_of,
    values_of,
)
from tinyllm.errors import invalid

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
UNENFORCED_FORMATS = (
    "idn-email",
    "idn-hostname",
    "iri",
    "iri-reference",
    "uri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
)
"""Formats of JSON Schema that no grammar is there for. A format that JSON Schema does not define is an annotation."""
_FORMAT_PATTERNS = {
    # neither Python nor JavaScript reads a leap second
    "date-time": r"^.*[Tt]\d\d:\d\d:[0-5]",
    "time": r"^\d\d:\d\d:[0-5]",
    # RFC 5321 limits the local part; an address in brackets is no host that validators know
    "email": r"^[^@]{1,64}@([A-Za-z0-9-]{1,63}(\.|$))+$",
    "base64": r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
}
"""What a format or an encoding asks for, beside llguidance's own grammar of the format, if it has one."""
_UUIDS = {f"uuid{version}": rf"^.{{14}}{version}.{{4}}[89abAB]" for version in range(1, 9)}
_FORMAT_PATTERNS |= _UUIDS
_NAME_FORMATS = {
    "uuid": r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "date": r"^(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    r"|(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)$",
}
"""Patterns of the formats that names of properties may have: llguidance takes a pattern there alone."""
MOST_ARRAYS = 2000
"""Of different items, in a whole schema: they are written out one by one."""
Schema = dict[str, Any]
_OTHER_KINDS = ("null", "boolean", "number", "string", "object")


def plain_schema(schema: Any) -> Any:
    """The schema with its objects closed, without annotations and without keywords that llguidance lacks.

    Args:
        schema: one that `check_schema` found well formed.

    Raises:
        InvalidInputError: with the place of a keyword that cannot be said in others.
    """
    schema = closed_schema(schema)
    rewriting = _Rewriting(schema)
    plain = rewriting.plain(schema, "schema")
    if rewriting.definitions and isinstance(plain, dict):
        plain["$defs"] = plain.get("$defs", {}) | rewriting.definitions
    return plain


class _Rewriting:
    """The rewriting of one schema.

    root: the whole of it, in which references are looked up. definitions: those that the rewriting needs besides.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self.definitions: Schema = {}
        self._arrays = 0

    def plain(self, schema: Any, place: str) -> Any:
        if not isinstance(schema, dict):
            return schema
        kept: Schema = {key: value for key, value in schema.items() if not is_annotation(key)}
        for key, value in kept.items():
            if key in NAMED:
                kept[key] = {name: self.plain(inner, f"{place}.{key}.{name}") for name, inner in value.items()}
            elif key in LISTED or (isinstance(value, list) and key == "items"):
                kept[key] = [self.plain(inner, f"{place}.{key}[{n}]") for n, inner in enumerate(value)]
            elif key in SINGLE:
                kept[key] = self.plain(value, f"{place}.{key}")
        rewritings: tuple[Callable[[Schema, str], None], ...] = (
            _rewrite_limits,
            _rewrite_tuple,
            _rewrite_format,
            self._rewrite_names,
            self._rewrite_unique,
        )
        for rewrite in rewritings:
            rewrite(kept, place)
        if "oneOf" in kept:
            self._rewrite_one_of(kept, schema.get("discriminator"))
        if "not" in kept:
            if kept["not"] not in (True, False, {}):
                raise invalid(
                    "grammar", f"{place}.not", "a keyword that can be enforced, which it is for {}", "another"
                )
            if kept.pop("not") is not False:
                return False
        return _with_null(kept) if kept.pop("nullable", False) else kept

    def _rewrite_names(self, kept: Schema, place: str) -> None:
        """`propertyNames` as names or a pattern of properties."""
        names = target_of(self._root, kept.pop("propertyNames", True))
        if isinstance(names, dict) and names.get("type", "string") == "string":
            names = {key: value for key, value in names.items() if key != "type"}
        if names in (True, {}):
            return
        place, value = f"{place}.propertyNames", kept.get("additionalProperties", True)
        known = kept.get("properties", {})
        if "patternProperties" in kept:
            raise invalid("grammar", place, "no patternProperties beside it", "some")
        if keys_of(names) in ({"enum"}, {"const"}):
            allowed = [name for name in names.get("enum", [names.get("const")]) if isinstance(name, str)]
            if isinstance(value, dict) and len(allowed) > 1:  # said once, as it may say much
                self.definitions[place] = value
                value = _reference(place)
            order = [name for name in known if name in {*allowed}] + allowed
            kept["properties"] = {name: known.get(name, value) for name in order}
        elif known:
            raise invalid("grammar", place, "an enum or const, as there are properties beside it", "another schema")
        elif keys_of(names) == {"pattern"}:
            kept["patternProperties"] = {names["pattern"]: value}
        elif keys_of(names) == {"format"} and names["format"] in _NAME_FORMATS:
            kept["patternProperties"] = {_NAME_FORMATS[names["format"]]: value}
        elif keys_of(names) and keys_of(names) <= {"minLength", "maxLength"}:
            length = f"{names.get('minLength', 0)},{names.get('maxLength', '')}"
            kept["patternProperties"] = {rf"^[\s\S]{{{length}}}$": value}
        else:
            raise invalid(
                "grammar",
                place,
                "an enum, a const, a pattern, lengths, or the format date or uuid, alone",
                "another schema",
            )
        kept["additionalProperties"] = False

    def _rewrite_unique(self, kept: Schema, place: str) -> None:
        """`uniqueItems` as all arrays of some values that differ."""
        kinds = kept.get("type", [*_OTHER_KINDS, "array"])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not kept.pop("uniqueItems", False) or kept.get("maxItems", 2) <= 1 or "array" not in kinds:
            return
        place, expected = f"{place}.uniqueItems", "items of an enum, const, boolean or null (or maxItems 1)"
        values = None if "prefixItems" in kept else values_of(self._root, kept.get("items", True))
        if values is None:
            raise invalid("grammar", place, expected, "items that cannot be counted")
        lengths = range(kept.pop("minItems", 0), min(kept.pop("maxItems", len(values)), len(values)) + 1)
        self._arrays += sum(math.perm(len(values), length) for length in lengths)
        if self._arrays > MOST_ARRAYS:
            raise invalid("grammar", place, f"at most {MOST_ARRAYS} arrays of different items", f"{len(values)} items")
        arrays = [
            {"type": "array", "prefixItems": [{"const": value} for value in array], "minItems": length, "items": False}
            for length in lengths
            for array in permutations(values, length)
        ]
        kept.pop("items")
        kept.pop("type", None)
        others = [{"type": kind} for kind in kinds if kind != "array"]
        kept["allOf"] = [*kept.get("allOf", ()), {"anyOf": [*arrays, *others] or [False]}]

    def _rewrite_one_of(self, kept: Schema, discriminator: Any) -> None:
        """`oneOf` as `anyOf`, where a property tells the alternatives apart. A discriminator has to be there."""
        tag = tag_of(self._root, kept["oneOf"], discriminator)
        if tag is not None:
            branches = [self._with_required(branch, tag) for branch in kept.pop("oneOf")]
            kept["allOf"] = [*kept.get("allOf", ()), {"anyOf": branches}]

    def _with_required(self, schema: Schema, name: str) -> Schema:
        """A schema that asks for a property; what a reference refers to is defined once more, as nothing may stand
        beside it in a recursive schema."""
        target = target_of(self._root, schema)
        if name in target.get("required", ()):
            return schema
        target = {**target, "required": [*target.get("required", ()), name]}
        if "$ref" not in schema:
            return target
        key = f"{schema['$ref']} {name}"
        if key not in self.definitions:
            self.definitions[key] = True  # it may refer to itself
            self.definitions[key] = self.plain(target, schema["$ref"])
        return _reference(key)


def _reference(key: str) -> Schema:
    """A reference to a definition at the top."""
    return {"$ref": "#/$defs/" + quote(key.replace("~", "~0").replace("/", "~1"))}


def _rewrite_limits(kept: Schema, place: str) -> None:
    """Limits as draft 4 has them, where `exclusiveMinimum` is true beside `minimum`."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(kept.get(exclusive), bool) and kept.pop(exclusive) and limit in kept:
            kept[exclusive] = kept.pop(limit)


def _rewrite_tuple(kept: Schema, place: str) -> None:
    """Tuples as they were before draft 2020-12: `items` is a list, `additionalItems` the schema of the others."""
    others = kept.pop("additionalItems", None)
    if isinstance(kept.get("items"), list):
        kept["prefixItems"] = kept.pop("items")
        if others is not None:
            kept["items"] = others


def _rewrite_format(kept: Schema, place: str) -> None:
    names = [kept.pop("format", None), kept.pop("contentEncoding", None)]
    patterns = [{"pattern": _FORMAT_PATTERNS[name]} for name in dict.fromkeys(names) if name in _FORMAT_PATTERNS]
    name = "uuid" if names[0] in _UUIDS else names[0]
    if name in FORMATS:
        kept["format"] = name
    if patterns:
        kept["allOf"] = [*kept.get("allOf", ()), *patterns]


def _with_null(kept: Schema) -> Schema:
    """A schema with OpenAPI's `nullable`, which takes null, too. What lies in it stays where it is, so that references
    find it."""
    if {"$ref", "anyOf", "oneOf", "allOf"} & set(kept):
        moved: Schema = {key: kept.pop(key) for key in ("$defs", "definitions") if key in kept}
        return {"anyOf": [kept, {"type": "null"}], **moved}
    if "type" in kept:
        kinds = kept["type"] if isinstance(kept["type"], list) else [kept["type"]]
        kept["type"] = [*kinds, *(["null"] if "null" not in kinds else [])]
    values = kept.get("enum", [kept["const"]] if "const" in kept else None)
    if values is not None:
        kept.pop("const", None)
        kept["enum"] = [*values, *([None] if None not in values else [])]
    return kept
