"""Messages between processes as bytes: numbers, texts, lists and arrays of numbers, and nothing that could run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError

ARRAY = "$array"
"""The key of an object that stands for an array: its dtype, its shape, and where its bytes begin."""


def encode(message: Sequence[Any]) -> bytes:
    """A message as bytes: the length of its JSON, the JSON, and the bytes of the arrays."""
    parts: list[bytes] = []
    size = 0

    def described(value: Any) -> Any:
        nonlocal size
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            raise TypeError(f"a message holds numbers, texts, lists and arrays of numbers, not {type(value).__name__}")
        parts.append(value.tobytes())
        place, size = size, size + len(parts[-1])
        return {ARRAY: [value.dtype.str, value.shape, place]}

    text = json.dumps(message, default=described).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def decode(data: bytes) -> list[Any]:
    """The message that `encode` made bytes of.

    Raises:
        TinyllmError: they are those of no message.
    """
    length = int.from_bytes(data[:8], "little")
    text, arrays = data[8 : 8 + length], memoryview(data)[8 + length :]

    def built(value: dict[str, Any]) -> Any:
        if ARRAY not in value:
            return value
        name, shape, place = value[ARRAY]
        dtype = np.dtype(name)
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of {dtype}")
        return np.frombuffer(arrays, dtype, prod(shape), place).reshape(shape).copy()

    try:
        message: list[Any] = json.loads(text, object_hook=built)
    except (ValueError, TypeError) as error:
        raise TinyllmError(f"parallel: a message of another process cannot be read: {error}") from error
    return message
