"""Reads JSON of strangers. What it holds is counted before anything is made of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.errors import InvalidInputError

MOST_VALUES = 250_000
MOST_CONTAINERS = 50_000
"""Lists and objects, each of which takes as long to make as many numbers."""
MOST_DEPTH = 100


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
    characters = np.frombuffer(data, np.uint8)
    outside = _outside_texts(characters)
    commas = (characters == ord(",")) & outside
    opens = ((characters == ord("[")) | (characters == ord("{"))) & outside
    closes = ((characters == ord("]")) | (characters == ord("}"))) & outside
    containers = np.count_nonzero(opens)
    depths = np.cumsum(np.where(opens[opens | closes], 1, -1))
    if depths.max(initial=0) > MOST_DEPTH:
        raise InvalidInputError(f"{field}: expected lists and objects at most {MOST_DEPTH} deep, got more")
    if containers > MOST_CONTAINERS:
        raise InvalidInputError(f"{field}: expected at most {MOST_CONTAINERS} lists and objects, got more")
    if 1 + np.count_nonzero(commas) + containers > MOST_VALUES:
        raise InvalidInputError(f"{field}: expected at most {MOST_VALUES} values, got more")


def _outside_texts(data: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which bytes of JSON stand in no text. Whole arrays are compared, in a tenth of the time of a loop, and others run
    meanwhile."""
    quotes = data == ord('"')
    backslashes = np.flatnonzero(data == ord("\\"))
    if backslashes.size:
        run = np.maximum.accumulate(np.where(np.diff(backslashes, prepend=-2) == 1, 0, backslashes))  # where it begins
        escaped = backslashes[(backslashes - run) % 2 == 0] + 1
        quotes[escaped[escaped < quotes.size]] = False
    outside: NDArray[np.bool_] = np.cumsum(quotes, dtype=np.uint8) % 2 == 0
    return outside
