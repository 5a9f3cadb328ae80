"""Objects as their authors mean them: a schema that names properties and says nothing of others gets no others.

JSON Schema lets such objects have any other key, and a small model that may write another key goes on for ever. What
a closed schema takes its own schema takes, too, and a schema that takes anything still takes something once closed.
"""

from __future__ import annotations

from typing import Any

from tinyllm.engine.grammar.schema_lookup import LISTED, NAMED, SINGLE, children, referred, tag_of, target_of

_ALTERNATIVES = ("anyOf", "oneOf", "$ref")
_VALUES = ("enum", "const", "not")
_SHAPE = ("properties", "required", "minProperties", "items", "prefixItems")
"""With `additionalProperties` and what else says it of objects: keywords that say what is inside of a value."""
_OPEN = ("additionalProperties", "patternProperties", "propertyNames")
"""Keywords that say which other keys there may be."""


def closed_schema(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever it names properties and nothing says of other keys.

    Where several schemas describe one value (`allOf`, `anyOf` beside `properties`, a `$ref` beside either, `oneOf`
    whose alternatives only differ in their keys), each may name keys that another does not, and the value stays open,
    with all that is inside of it.

    Args:
        schema: a value of JSON in which no object stands twice.
    """
    return _closed(schema, _shared(schema))


def _shared(root: Any) -> set[int]:
    """The ids of all schemas that describe a value, or a part of one, together with others."""
    seen: set[tuple[int, bool]] = set()
    waiting = [(root, False)]
    while waiting:
        schema, is_shared = waiting.pop()
        if not isinstance(schema, dict) or (id(schema), is_shared) in seen:
            continue
        seen.add((id(schema), is_shared))
        is_shared = is_shared or _is_one_of_several(root, schema)
        seen.add((id(schema), is_shared))
        definitions = [schema[key] for key in ("$defs", "definitions") if key in schema]
        apart = {id(inner) for named in definitions for inner in named.values()}
        waiting += [(inner, is_shared and id(inner) not in apart) for inner, _ in children(schema, "")]
        if "$ref" in schema:
            waiting.append((referred(root, schema["$ref"]), is_shared))
    return {key for key, is_shared in seen if is_shared}


def _is_one_of_several(root: Any, schema: dict[str, Any]) -> bool:
    """Whether a value that it describes has to be what several schemas say, or what just one of several says."""
    parts = sum(key in schema for key in (*_ALTERNATIVES, *_VALUES)) + len(schema.get("allOf", ()))
    if parts + any(key in schema for key in (*_SHAPE, *_OPEN)) > 1:
        return True
    branches = schema.get("oneOf", ())
    objects = [branch for branch in branches if _may_be_object(target_of(root, branch))]
    return len(objects) > 1 and tag_of(root, branches, schema.get("discriminator")) is None


def _may_be_object(schema: Any) -> bool:
    return not isinstance(schema, dict) or "object" in schema.get("type", "object")


def _closed(schema: Any, shared: set[int]) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key, value in schema.items():
        if key in NAMED:
            closed[key] = {name: _closed(inner, shared) for name, inner in value.items()}
        elif isinstance(value, list) and (key in LISTED or key == "items"):
            closed[key] = [_closed(inner, shared) for inner in value]
        elif key in SINGLE:
            closed[key] = _closed(value, shared)
    properties, required = schema.get("properties"), set(schema.get("required", ()))
    says_others = any(key in schema for key in _OPEN) or schema.get("minProperties", 0) > len(required)
    if properties is not None and required <= {*properties} and not says_others and id(schema) not in shared:
        closed["additionalProperties"] = False
    return closed
