"""What a file of packed weights looks like: a mark with the version, the length and the checksum of a header, this
header, which is JSON with the key and where each array lies, and the arrays."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from math import prod
from mmap import mmap
from typing import Any, BinaryIO

import numpy as np

from tinyllm.spec.dtypes import numpy_dtype

MARK = b"tinyllm packed 1\n"
"""Begins a file; the number is raised when its form changes."""
ALIGNMENT = 64
"""Bytes that each array begins at a multiple of: a cache line, and what vector loads want."""
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error)
"""What reading a file raises where its content is not what was written."""
_SUMMARY = struct.Struct("<QL")
_MOST_HEADER = 1 << 20

Arrays = dict[str, np.ndarray]


def head_of(arrays: Mapping[str, np.ndarray], key: list[str], name: str) -> tuple[bytes, list[int], int]:
    """The bytes that begin a file, where in the file each array begins, and the bytes of the whole file.

    key: what the file is found by. name: that of the checkpoint, for people.
    """
    places: dict[str, dict[str, Any]] = {}
    end = 0
    for array_name, array in arrays.items():
        start = _aligned(end)
        places[array_name] = {"dtype": str(array.dtype), "shape": array.shape, "start": start}
        end = start + array.nbytes
    header = json.dumps({"key": key, "name": name, "arrays": places, "bytes": end}).encode()
    begin = _data_start(len(header))
    head = MARK + _SUMMARY.pack(len(header), zlib.crc32(header)) + header
    return head, [begin + place["start"] for place in places.values()], begin + end


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], head: bytes, starts: list[int], size: int) -> None:
    """Write what `head_of` laid out. Raises `OSError` where the disk does not take it."""
    file.write(head)
    for start, array in zip(starts, arrays.values(), strict=True):
        file.seek(start)
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    file.truncate(size)


def read(mapped: mmap, key: list[str]) -> Arrays | None:
    """The arrays of a file whose key is this, read-only; None for another file. Raises one of `MALFORMED` for what is
    damaged."""
    if mapped[: len(MARK)] != MARK:
        return None
    length, checksum = _SUMMARY.unpack_from(mapped, len(MARK))
    text = mapped[len(MARK) + _SUMMARY.size : len(MARK) + _SUMMARY.size + length]
    if zlib.crc32(text) != checksum:
        return None
    header, begin = json.loads(text), _data_start(length)
    if header["key"] != key or len(mapped) != begin + header["bytes"]:
        return None
    arrays = {}
    for name, place in header["arrays"].items():
        dtype, shape = numpy_dtype(place["dtype"]), tuple(place["shape"])
        flat = np.frombuffer(mapped, dtype, prod(shape), begin + place["start"])
        arrays[name] = flat.reshape(shape)
    return arrays


def read_names(file: BinaryIO) -> tuple[str, str] | None:
    """The name of the checkpoint that a file is of, and its layout; None for what is no such file."""
    try:
        if file.read(len(MARK)) != MARK:
            return None
        length, _ = _SUMMARY.unpack(file.read(_SUMMARY.size))
        header = json.loads(file.read(min(length, _MOST_HEADER)))
        return str(header["name"]), str(header["key"][3])
    except (*MALFORMED, IndexError):
        return None


def in_memory(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Copies of arrays as a file would give them: read-only, and each begins at a multiple of `ALIGNMENT` bytes."""
    copies = {}
    for name, array in arrays.items():
        room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        copy.setflags(write=False)
        copies[name] = copy
    return copies


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _data_start(header_bytes: int) -> int:
    return _aligned(len(MARK) + _SUMMARY.size + header_bytes)
