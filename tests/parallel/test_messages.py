"""Messages between processes: what is sent arrives, and nothing else is ever made of bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tinyllm.errors import TinyllmError
from tinyllm.parallel.messages import decode, encode


def test_what_is_sent_arrives() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "tokens": rng.integers(0, 99, 7).astype(np.int32),
        "rows": np.zeros((0, 3), np.int64),
        "lengths": rng.random((3, 2)).astype(np.float16),
        "turned": rng.random((4, 6)).T,
        "flags": np.array([True, False]),
    }
    *rest, found = decode(encode(([1, np.int64(2)], "step", 3, None, 0.5, arrays)))
    assert rest == [[1, 2], "step", 3, None, 0.5]
    assert [*found] == [*arrays]
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", np.array([None]), np.array(["text"])], ids=["set", "bytes", "objects", "texts"]
)
def test_other_things_are_not_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="a message holds numbers, texts, lists and arrays of numbers"):
        encode([value])


def framed(text: str, arrays: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + arrays


@pytest.mark.parametrize(
    "data",
    [
        framed("[1"),
        framed(json.dumps([{"$array": ["|O", [1], 0]}]), bytes(8)),
        framed(json.dumps([{"$array": ["<i4", [2], 0]}]), bytes(4)),
        framed(json.dumps([{"$array": ["<i4", -1]}]), bytes(4)),
        framed(json.dumps([{"$array": ["<i4", ["x"], 0]}]), bytes(4)),
        b"\xff" * 40,
    ],
    ids=["cut", "objects", "short", "no shape", "words", "noise"],
)
def test_other_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises(TinyllmError, match="parallel: a message of another process cannot be read: "):
        decode(data)
