"""Reads JSON of strangers. What it holds is counted before anything is made of it."""

from __future__ import annotations

import json
import re
from typing import Any

from tinyllm.errors import InvalidInputError

MOST_VALUES = 250_000
MOST_CONTAINERS = 50_000
"""Lists and objects, each of which takes as long to make as many numbers."""
MOST_DEPTH = 100
_MARK = re.compile(rb'(?:"(?:[^"\\]++|\\.)*+"|[^",\[\]{}]++)*+([,\[\]{}"]|\Z)', re.DOTALL)
"""The next mark that is no part of a text, or where none comes any more: a text without end, or the end. One match goes
on over all texts before it, in time linear in them."""


def read_json(data: bytes, field: str = "body") -> Any:
    """What JSON in UTF-8 says.

    Raises:
        InvalidInputError: it is something else, holds more than `MOST_VALUES` values or `MOST_CONTAINERS` lists and
            objects, or these more than `MOST_DEPTH` deep; with the name of the field that it came from.
    """
    check_shape(data, field)
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{field}: expected JSON, got an error at character {error.pos}: {error.msg}"
        ) from error
    except ValueError as error:  # bytes that are no text, or an integer of thousands of digits
        raise InvalidInputError(f"{field}: expected JSON in UTF-8, got something else") from error


def check_shape(data: bytes, field: str) -> None:
    """Raises `InvalidInputError` for JSON with too many values, or too deep. Other faults are left to who reads it."""
    opening = data.count(b"[") + data.count(b"{")
    if opening <= MOST_DEPTH and data.count(b",") + opening < MOST_VALUES:
        return
    values, containers, depth = 1, 0, 0
    for match in _MARK.finditer(data):
        mark = match[1]
        if mark in (b'"', b""):
            return
        if mark in b"]}":
            depth -= 1
            if depth < 0:
                return
            continue
        values += 1
        containers += mark != b","
        depth += mark != b","
        if depth > MOST_DEPTH:
            raise InvalidInputError(f"{field}: expected lists and objects at most {MOST_DEPTH} deep, got more")
        if containers > MOST_CONTAINERS:
            raise InvalidInputError(f"{field}: expected at most {MOST_CONTAINERS} lists and objects, got more")
        if values > MOST_VALUES:
            raise InvalidInputError(f"{field}: expected at most {MOST_VALUES} values, got more")
