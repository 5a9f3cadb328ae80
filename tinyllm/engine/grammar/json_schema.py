"""Which JSON schemas can be enforced: every keyword is checked here, so that one that would be ignored is refused with
its place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

from tinyllm.engine.grammar.plain_schema import FORMATS, UNENFORCED_FORMATS, plain_schema
from tinyllm.engine.grammar.schema_lookup import children, is_annotation, referred, takes_objects_alone
from tinyllm.errors import InvalidInputError, invalid

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
DEEPEST = 64
MOST_MULTIPLES = 100_000
"""Of the numbers that `multipleOf` counts in: an automaton has that many states."""


def check_schema(schema: Any) -> None:
    """Raises `InvalidInputError` with the place for a schema that is malformed, or has a keyword that cannot be
    enforced."""
    multiples: list[Fraction] = []
    _check(schema, "schema", 0, multiples)
    for reference in sorted(_references(schema)):
        target = referred(schema, reference)
        if target is not None:  # llguidance says where there is none
            _check(target, f"schema: {reference}", 1, [])
    if multiples:
        unit = math.lcm(*(m.denominator for m in multiples))
        if math.lcm(*(int(m * unit) for m in multiples)) > MOST_MULTIPLES:
            expected = f"numbers whose common multiple is at most {MOST_MULTIPLES} units of their last digit"
            raise invalid("grammar", "schema: multipleOf", expected, "larger ones")
    plain_schema(schema)


def parse(schema: Any) -> tuple[str, Any]:
    """(JSON text, value) of a schema given as text or as a value."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        return text, json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise invalid(
            "grammar", "schema", "JSON", f"{error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise invalid("grammar", "schema", f"at most {DEEPEST} levels", "more") from error
    except InvalidInputError:
        raise
    except (TypeError, ValueError) as error:
        raise invalid("grammar", "schema", "values of JSON", str(error)) from error


def object_schema(text: str) -> dict[str, Any]:
    """A schema, given as text, for objects alone. Raises `InvalidInputError` where it takes none."""
    schema = json.loads(text)
    if takes_objects_alone(schema):
        return dict(schema)
    if isinstance(schema, bool):
        schema = {} if schema else {"type": []}
    kinds = schema.get("type", "object")
    if kinds != "object" and "object" not in list(kinds):
        raise invalid("grammar", "schema.type", '"object", as arguments are one', _short(kinds))
    return {**schema, "type": "object", "nullable": False}


def _references(schema: Any) -> set[str]:
    """All `$ref` in a schema, and in what stands in it that is none."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            reference = value.get("$ref")
            found |= {reference} if isinstance(reference, str) and reference.startswith("#") else set()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found


def _no_constant(name: str) -> NoReturn:
    raise invalid("grammar", "schema", "JSON", name)


def _check(schema: Any, place: str, depth: int, multiples: list[Fraction]) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise invalid("grammar", place, "a schema (an object, true or false)", _short(schema))
    if depth > DEEPEST:
        raise invalid("grammar", "schema", f"at most {DEEPEST} levels", "more")
    for key, value in schema.items():
        if is_annotation(key):
            continue
        if key not in _KEYWORDS:
            raise invalid("grammar", f"{place}.{key}", "a keyword that can be enforced", repr(key))
        fits, expected = _KEYWORDS[key]
        if not fits(value):
            raise invalid("grammar", f"{place}.{key}", expected, _short(value))
    if depth and "$id" in schema and '"$ref"' in json.dumps(schema):
        raise invalid("grammar", f"{place}.$id", "it at the top, where references begin", "one beside a $ref")
    if "multipleOf" in schema:
        multiples.append(Fraction(str(schema["multipleOf"])))
    required = set(schema.get("required", ()))
    if schema.get("minProperties", 0) > max(1, len(required)):
        # keys beside the named ones may come twice, and would be counted twice
        raise invalid(
            "grammar",
            f"{place}.minProperties",
            "at most 1, or the number of required properties",
            schema["minProperties"],
        )
    for inner, where in children(schema, place):
        _check(inner, where, depth + 1, multiples)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    )  # not so for NaN and what is infinite


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value) and len(set(value)) == len(value)


def _types(value: Any) -> bool:
    return (
        value in TYPES if isinstance(value, str) else _texts(value) and bool(value) and all(v in TYPES for v in value)
    )


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


_SCHEMAS = (_is(dict), "an object of schemas")
_CHOICES = (_list, "a list of schemas")
_LENGTH = (_count, "a whole number of at least 0")
_LIMIT = (_number, "a number")
_EXCLUSIVE = (lambda value: _number(value) or isinstance(value, bool), "a number, or true or false")
_FLAG = (_is(bool), "true or false")
_SCHEMA = (_is((dict, bool)), "a schema (an object, true or false)")  # type: ignore[arg-type]
_KEYWORDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_types, f"one of {', '.join(TYPES)}, or a list of them"),
    "enum": (_list, "a list of values"),
    "const": (lambda value: True, ""),
    "properties": _SCHEMAS,
    "patternProperties": _SCHEMAS,
    "additionalProperties": _SCHEMA,
    "required": (_texts, "a list of different names"),
    "minProperties": _LENGTH,
    "maxProperties": _LENGTH,
    "propertyNames": _SCHEMA,
    "items": (_is((dict, bool, list)), "a schema (an object, true or false) or a list of them"),  # type: ignore[arg-type]
    "additionalItems": _SCHEMA,
    "uniqueItems": _FLAG,
    "prefixItems": _CHOICES,
    "minItems": _LENGTH,
    "maxItems": _LENGTH,
    "minLength": _LENGTH,
    "maxLength": _LENGTH,
    "pattern": (_is(str), "a regular expression"),
    "format": (
        lambda value: isinstance(value, str) and value not in UNENFORCED_FORMATS,
        f"one of {', '.join(FORMATS)}, or one that JSON Schema does not define",
    ),
    "minimum": _LIMIT,
    "maximum": _LIMIT,
    "contentEncoding": (_is(str), "a text"),
    "exclusiveMinimum": _EXCLUSIVE,
    "exclusiveMaximum": _EXCLUSIVE,
    "multipleOf": (lambda value: _number(value) and value > 0, "a number above 0"),
    "anyOf": _CHOICES,
    "oneOf": _CHOICES,
    "allOf": _CHOICES,
    "not": _SCHEMA,
    "nullable": _FLAG,
    "$defs": _SCHEMAS,
    "definitions": _SCHEMAS,
    "$ref": (
        lambda value: isinstance(value, str) and (value == "#" or value.startswith("#/")),
        "a place in this schema (#/...)",
    ),
}
