"""What is found in a JSON schema: which keywords say something, what references refer to, which values there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

ANNOTATIONS = frozenset(
    (
        "$anchor",
        "$comment",
        "$id",
        "$schema",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "id",
        "readOnly",
        "title",
        "writeOnly",
    )
)
"""Keywords that say nothing about which values are valid, in JSON Schema or OpenAPI. `discriminator` is a hint beside
`oneOf`; the names that `$id` and `$anchor` give are refused in a `$ref`."""
NAMED, LISTED = ("properties", "patternProperties", "$defs", "definitions"), ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalItems", "additionalProperties", "propertyNames", "not")
"""Keywords whose value is schemas by name, a list of schemas, or a schema."""
_KINDS: dict[type, set[str]] = {
    str: {"string"},
    bool: {"boolean"},
    int: {"integer", "number"},
    type(None): {"null"},
}


def is_annotation(keyword: str) -> bool:
    """Whether a keyword says nothing about values. Those with x- are extensions; that of llguidance's own is a setting,
    which a schema must not change."""
    return keyword in ANNOTATIONS or (keyword.startswith("x-") and keyword != "x-guidance")


def keys_of(schema: Any) -> set[str]:
    """The keywords of a schema that say something about values."""
    return {key for key in schema if not is_annotation(key)} if isinstance(schema, dict) else set()


def children(schema: Any, place: str) -> Iterator[tuple[Any, str]]:
    """The schemas right inside a schema, each with its place."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in NAMED and isinstance(value, dict):
            yield from ((inner, f"{place}.{key}.{name}") for name, inner in value.items())
        elif isinstance(value, list) and (key in LISTED or key == "items"):
            yield from ((inner, f"{place}.{key}[{number}]") for number, inner in enumerate(value))
        elif key in SINGLE:
            yield value, f"{place}.{key}"


def referred(root: Any, reference: str) -> Any:
    """What a reference (`#/...`) refers to in a schema; None where that has no such place."""
    for key in reference.split("/")[1:]:
        key = unquote(key).replace("~1", "/").replace("~0", "~")
        if isinstance(root, list) and key.isdecimal() and int(key) < len(root):
            root = root[int(key)]
        else:
            root = root.get(key) if isinstance(root, dict) else None
    return root


def target_of(root: Any, schema: Any) -> Any:
    """What a schema that is a reference alone refers to, where that is in the root; any other as it is."""
    seen: list[str] = []
    while keys_of(schema) - {"$defs", "definitions"} == {"$ref"} and schema["$ref"] not in seen:
        seen.append(schema["$ref"])
        found = referred(root, seen[-1])
        schema = schema if found is None else found
    return {k: v for k, v in schema.items() if not is_annotation(k)} if isinstance(schema, dict) else schema


def values_of(root: Any, schema: Any) -> list[Any] | None:
    """All values of a schema that has few, no two of them equal. None: it may have others."""
    schema = target_of(root, schema)
    if not isinstance(schema, dict):
        return [] if schema is False else None
    kinds = schema.get("type")
    if keys_of(schema) == {"type"} and kinds in ("boolean", "null"):
        return [False, True] if kinds == "boolean" else [None]
    if keys_of(schema) - {"type"} not in ({"enum"}, {"const"}):
        return None
    values = schema.get("enum", [schema.get("const")])
    if not all(value is None or isinstance(value, (str, bool, int)) for value in values):
        return None
    kinds = [kinds] if isinstance(kinds, str) else kinds
    fitting = [value for value in values if kinds is None or _KINDS[type(value)] & {*kinds}]
    return list({(type(value), value): value for value in fitting}.values())


def takes_objects_alone(schema: Any) -> bool:
    """Whether a schema, or what it refers to, says that values are objects."""
    target = target_of(schema, schema)
    return isinstance(target, dict) and target.get("type") == "object" and not target.get("nullable")


def tag_of(root: Any, branches: Sequence[Any], discriminator: Any) -> str | None:
    """The property that tells the alternatives of a `oneOf` apart: each has other values of it, and asks for it, or the
    discriminator does. None: there is no such property."""
    targets = [target_of(root, branch) for branch in branches]
    if not all(takes_objects_alone(target) for target in targets):
        return None
    tag = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    required = [{tag} if isinstance(tag, str) else {*target.get("required", ())} for target in targets]
    names: list[str] = sorted(set.intersection(*required))
    for name in names:
        values = [values_of(root, target.get("properties", {}).get(name, True)) for target in targets]
        known = [(type(value), value) for found in values for value in found or ()]
        if all(values) and len({*known}) == len(known):
            return name
    return None
