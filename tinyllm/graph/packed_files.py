"""Packed weights on disk: made once, then mapped by every process that binds the same checkpoint to the same kernel.

A file is JSON with the key and where each array lies, between a mark with the version and the arrays themselves. What
is of another version, another key or too short is never read: it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.errors import TinyllmError
from tinyllm.spec.dtypes import numpy_dtype

MARK = b"tinyllm packed 1\n"
"""Begins a file; the number is raised when its form changes."""
ALIGNMENT = 64
"""Bytes that each array begins at a multiple of: a cache line, and what vector loads want."""
MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error)
"""What reading a file raises that is not one of ours."""
_LENGTH = struct.Struct("<Q")

Arrays = dict[str, np.ndarray]


class PackedFiles:
    """The packed forms in a folder, which is made when the first is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, checkpoint: str, weight: str, form: str, layout: str) -> Path:
        """Where the packed form of a weight lies."""
        digest = hashlib.blake2b(json.dumps([checkpoint, weight, form, layout]).encode(), digest_size=16)
        return self.folder / f"{digest.hexdigest()}.packed"

    def find(self, checkpoint: str, weight: str, form: str, layout: str) -> Arrays | None:
        """The arrays of a packed form, mapped and read-only; None where there is no file that holds just this."""
        try:
            with self.path(checkpoint, weight, form, layout).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # no such file, or one of no bytes
            return None
        try:
            return _arrays(mapped, [checkpoint, weight, form, layout])
        except MALFORMED:  # truncated, or written by something else
            return None

    def keep(self, arrays: Mapping[str, np.ndarray], checkpoint: str, weight: str, form: str, layout: str) -> Arrays:
        """Write a packed form and give it back mapped. Several processes may do so at once: each file is put in its
        place whole.

        Raises:
            TinyllmError: the folder cannot be written to.
        """
        key, target = [checkpoint, weight, form, layout], self.path(checkpoint, weight, form, layout)
        places: dict[str, dict[str, Any]] = {}
        end = 0
        for name, array in arrays.items():
            start = -(-end // ALIGNMENT) * ALIGNMENT
            places[name] = {"dtype": str(array.dtype), "shape": array.shape, "start": start}
            end = start + array.nbytes
        header = json.dumps({"key": key, "arrays": places, "bytes": end}).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(MARK + _LENGTH.pack(len(header)) + header)
                    begin = _data_start(len(header))
                    for place, array in zip(places.values(), arrays.values(), strict=True):
                        file.seek(begin + place["start"])
                        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                    file.truncate(begin + end)
                os.replace(part, target)
            finally:
                Path(part).unlink(missing_ok=True)
        except OSError as error:
            raise TinyllmError(f"packed weights: {self.folder}: cannot be written: {error.strerror}") from error
        found = self.find(*key)
        if found is None:
            raise TinyllmError(f"packed weights: {target}: was changed while it was written")
        return found


def _data_start(header_bytes: int) -> int:
    return -(-(len(MARK) + _LENGTH.size + header_bytes) // ALIGNMENT) * ALIGNMENT


def _arrays(mapped: mmap.mmap, key: list[str]) -> Arrays | None:
    """The arrays of a file whose key is this. Raises what malformed content makes of it."""
    if mapped[: len(MARK)] != MARK:
        return None
    (length,) = _LENGTH.unpack_from(mapped, len(MARK))
    header = json.loads(mapped[len(MARK) + _LENGTH.size : len(MARK) + _LENGTH.size + length])
    begin = _data_start(length)
    if header["key"] != key or len(mapped) != begin + header["bytes"]:
        return None
    arrays = {}
    for name, place in header["arrays"].items():
        dtype, shape = numpy_dtype(place["dtype"]), tuple(place["shape"])
        flat = np.frombuffer(mapped, dtype, prod(shape), begin + place["start"])
        arrays[name] = flat.reshape(shape)
    return arrays
