"""Messages between processes as bytes: a few values as JSON, and arrays as the bytes that they are.

A frame is the lengths of both (4 and 8 bytes, the highest first), the JSON object, then the arrays one after the other
as they lie in memory. What comes is never run: it is read as numbers of a known dtype, within bounds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError, quoted
from tinyllm.spec.dtypes import numpy_dtype

LENGTHS = struct.Struct("!IQ")
MOST_TEXT = 1 << 20
MOST_ARRAYS = 1 << 34
"""Most bytes of a frame's JSON, and of its arrays."""
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")

Arrays = Mapping[str, np.ndarray]


class FrameError(TinyllmError):
    """What came is no frame, or something that was not to come."""


@dataclass(frozen=True)
class Frame:
    """What it says, with values that JSON has, and arrays by name."""

    what: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    def places(self) -> list[memoryview]:
        """The bytes of each array, where they lie."""
        return [array.reshape(-1).view(np.uint8).data for array in self.arrays.values()]


def packed(frame: Frame) -> list[bytes | memoryview]:
    """What a frame is sent as, one part after the other: lengths and JSON first, then each array.

    Raises:
        FrameError: it is larger than a frame may be, or has arrays of other things than numbers.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in frame.arrays.items()}
    kinds = [(name, array.dtype.name, array.shape) for name, array in arrays.items()]
    for name, dtype, _ in kinds:
        if dtype not in DTYPES:
            raise FrameError(f"{name}: expected an array of one of {', '.join(DTYPES)}, got {dtype}")
    text = json.dumps({"what": frame.what, "values": dict(frame.values), "arrays": kinds}).encode()
    nbytes = sum(array.nbytes for array in arrays.values())
    _check_lengths(len(text), nbytes)
    return [LENGTHS.pack(len(text), nbytes) + text, *Frame("", {}, arrays).places()]


def lengths(head: bytes | bytearray) -> tuple[int, int]:
    """Of what a frame begins with: how many bytes its JSON has, and how many its arrays. Raises `FrameError` for more
    than a frame may have."""
    text, nbytes = LENGTHS.unpack(head)
    _check_lengths(text, nbytes)
    return text, nbytes


def unpacked(text: bytes, nbytes: int) -> Frame:
    """The frame of a JSON text, and of arrays of so many bytes, which still have to be put into its `places`.

    Raises:
        FrameError: it is none.
    """
    what, values, kinds = _parsed(text)
    if nbytes != sum(prod(shape) * numpy_dtype(dtype).itemsize for _, dtype, shape in kinds):
        raise FrameError(f"expected arrays of {nbytes} bytes together, got other shapes")
    return Frame(what, values, {name: np.empty(shape, numpy_dtype(dtype)) for name, dtype, shape in kinds})


def to_bytes(frame: Frame) -> bytes:
    """A frame in one piece. Raises as `packed` does."""
    return b"".join(packed(frame))


def from_bytes(data: bytes) -> Frame:
    """The frame that `to_bytes` made bytes of. Raises `FrameError` where they are those of none."""
    if len(data) < LENGTHS.size:
        raise FrameError(f"expected a frame, got {len(data)} bytes")
    text, nbytes = lengths(data[: LENGTHS.size])
    begin = LENGTHS.size + text
    if len(data) != begin + nbytes:
        raise FrameError(f"expected a frame of {begin + nbytes} bytes, got {len(data)}")
    frame = unpacked(data[LENGTHS.size : begin], nbytes)
    for place in frame.places():
        place[:] = data[begin : begin + len(place)]
        begin += len(place)
    return frame


def _check_lengths(text: int, nbytes: int) -> None:
    if text > MOST_TEXT or nbytes > MOST_ARRAYS:
        raise FrameError(
            f"expected a frame of at most {MOST_TEXT} bytes of JSON, {MOST_ARRAYS} of arrays, got {text}, {nbytes}"
        )


def _parsed(text: bytes) -> tuple[str, dict[str, Any], list[tuple[str, str, list[int]]]]:
    try:
        match json.loads(text):
            case {"what": str(what), "values": dict(values), "arrays": list(kinds)} if all(map(_is_kind, kinds)):
                return what, values, kinds
    except (ValueError, RecursionError):
        pass
    raise FrameError(f"expected a frame, got {quoted(text)}")


def _is_kind(kind: Any) -> bool:
    match kind:
        case [str(), dtype, list(shape)] if dtype in DTYPES and len(shape) <= 8:
            # beside an axis of none, too, the others are no larger than an array may be
            sizes = all(type(size) is int and 0 <= size <= MOST_ARRAYS for size in shape)
            return sizes and prod(size or 1 for size in shape) <= MOST_ARRAYS
    return False
