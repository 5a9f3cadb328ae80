"""The values of attributes as JSON has them, settings that are objects among them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields as dataclass_fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from tinyllm.errors import suggest
from tinyllm.spec.rope import Rope, RopeScaling

SETTINGS = {"RopeScaling": RopeScaling, "Rope": Rope}
"""Attributes that are objects, by their class."""


def encoded(value: Any) -> Any:
    """The value of an attribute: tuples are lists, one of `SETTINGS` is an object of its class and fields."""
    for name, kind in SETTINGS.items():
        if isinstance(value, kind):
            return {name: {f.name: encoded(getattr(value, f.name)) for f in dataclass_fields(kind)}}
    return list(value) if isinstance(value, tuple) else value


def decoded(field: str, value: Any) -> Any:
    """The value of an attribute: lists are tuples, an object is one of `SETTINGS`. Raises `ValueError` for others."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise wrong(field, f"one of {', '.join(SETTINGS)} with its fields", value)
    ((name, fields),) = value.items()
    kind = SETTINGS[one_of(field, name, SETTINGS)]
    hints, made = get_type_hints(kind), {}
    for part, inner in object_in(f"{field}.{name}", fields).items():
        where = f"{field}.{name}.{part}"
        wanted = _kinds(hints[one_of(f"{field}.{name}", part, hints)])
        made[part] = decoded(where, inner)
        if type(made[part]) not in wanted and not (float in wanted and type(made[part]) is int):
            raise wrong(where, " or ".join("null" if w is NoneType else w.__name__ for w in wanted), inner)
    return kind(**made)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a type hint allows; of tuples nothing is said of what is in them."""
    several = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(kind) or kind for kind in several)


def wrong(field: str, expected: str, got: Any) -> ValueError:
    """The one wording of a malformed value; long ones are cut."""
    told = got if isinstance(got, str) else json.dumps(got, default=str)
    return ValueError(
        f"{field}{': ' if field else ''}expected {expected}, got {told if len(told) <= 80 else told[:77] + '...'}"
    )


def object_in(field: str, value: Any) -> Mapping[str, Any]:
    """A value that is a JSON object. Raises `ValueError` for another."""
    if not isinstance(value, dict):
        raise wrong(field, "an object", value)
    return value


def one_of(field: str, value: Any, known: Iterable[Any]) -> Any:
    """A value that is a known one. Raises `ValueError` for another, with the nearest."""
    known = tuple(known)
    if not any(type(value) is type(k) and value == k for k in known):
        hint = suggest(value, map(str, known)) if isinstance(value, str) else ""
        few = "a known one" if len(known) > 12 else f"one of {', '.join(map(str, known))}" if known else "none"
        got = repr(value) if isinstance(value, str) else value
        raise ValueError(f"{wrong(field, few, got)}{'.' + hint if 'Did' in hint else ''}")
    return value
