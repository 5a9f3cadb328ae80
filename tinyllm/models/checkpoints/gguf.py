"""GGUF files: header, metadata and tensor table, parsed over a memory map with every bound checked before memory is
taken.

Source: the GGUF specification of ggml (versions 2 and 3, little endian).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.errors import CheckpointError, quoted, shortened
from tinyllm.models.checkpoints.files import check_apart, map_file
from tinyllm.models.checkpoints.gguf_header import GgufTensor

ARRAYS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Dtypes of the tensors that are not quantized, by GGUF's names; the others are those of `GGUF_SCHEMES`."""

TENSOR_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
"""Names of tensor types by the number that a file has for them."""

_U32, _U64 = "<u4", "<u8"
_STRING, _ARRAY = 8, 9
# value type id: its little-endian numpy dtype; bool is read as a byte
_SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_MAX_DIMS = 4
# What a header may hold. The largest vocabularies are a tenth of it; more would take memory, and seconds, before
# anything of it is believed.
_MOST_HEADER, _MOST_STRING, _MOST_ITEMS, _MOST_COUNT = 64 << 20, 48 << 20, 1 << 21, 1 << 16


def block_sizes(kind: str) -> tuple[int, int]:
    """Elements and bytes of a block of a tensor type."""
    if kind in ARRAYS:
        return 1, ARRAYS[kind].itemsize
    return GGUF_SCHEMES[kind].block, GGUF_SCHEMES[kind].block_bytes


LONG = 1024
"""Characters from which on a string of the metadata is read whenever it is asked for, and not kept."""


class Metadata(Mapping[str, Any]):
    """Values by key. A vocabulary is tens of megabytes of strings, and asked for once or twice: arrays and long strings
    are read from the file each time."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._long: dict[str, Callable[[], Any]] = {}

    def add(self, key: str, value: Any, again: Callable[[], Any]) -> None:
        """A value, and what reads it again."""
        is_long = isinstance(value, list) or (isinstance(value, str) and len(value) >= LONG)
        self._values[key] = None if is_long else value
        if is_long:
            self._long[key] = again

    def __getitem__(self, key: str) -> Any:
        return self._long[key]() if key in self._long else self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values


class GgufFile:
    """A parsed GGUF file: `metadata` as plain Python values, `tensors` by name, `map` the bytes.

    Raises `CheckpointError` for a file that is truncated, inconsistent, big endian, of another version or with an
    unknown tensor type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.map: mmap.mmap = map_file(path)
        self.metadata: Mapping[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        self.parts = [self]
        """The files that have its tensors: several where it is cut in parts."""
        self._end = len(self.map)
        self._at = 0
        self._read_header()

    def _fail(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {problem}")

    def _take(self, size: int, what: str) -> int:
        """Moves past `size` bytes and gives where they start."""
        start = self._at
        if size > self._end - start:
            raise self._fail(
                f"{what}: expected {size} bytes at offset {start}, got {self._end - start} (file truncated or corrupt)"
            )
        self._at = start + size
        return start

    def _scalar(self, kind: str, what: str) -> Any:
        """A number of a numpy dtype."""
        dtype = np.dtype(kind)
        return np.frombuffer(self.map, dtype, 1, self._take(dtype.itemsize, what))[0].item()

    def _string(self, what: str) -> str:
        return self._strings(1, what)[0]

    def _strings(self, count: int, what: str) -> list[str]:
        # A vocabulary has a hundred thousand strings, so this loop keeps everything in locals.
        data, at, end, read_length = self.map, self._at, self._end, struct.Struct("<Q").unpack_from
        strings = []
        for index in range(count):
            start = at + 8
            if start > end:
                raise self._fail(f"{what}: string {index} of {count} starts past the end of the file")
            (length,) = read_length(data, at)
            at = start + length
            if at > end:
                raise self._fail(
                    f"{what}: string {index} of {count}: expected {length} bytes, got {end - start} "
                    f"(truncated or corrupt)"
                )
            if length > _MOST_STRING:
                raise self._fail(f"{what}: expected a string of at most {_MOST_STRING} bytes, got {length}")
            try:
                strings.append(str(data[start:at], "utf-8"))
            except UnicodeDecodeError as error:
                raise self._fail(f"{what}: string {index} of {count}: expected UTF-8, got {error.reason}") from error
            if at - self._at > _MOST_HEADER:
                raise self._too_long()
        self._at = at
        return strings

    def _read_header(self) -> None:
        if (magic := self.map[: min(4, self._end)]) != b"GGUF":
            raise self._fail(f"magic: expected b'GGUF', got {magic!r}")
        self._at = 4
        version = self._scalar(_U32, "version")
        if version and version & 0xFFFF == 0:
            raise self._fail("byte order: expected little endian, got a big-endian GGUF")
        if version not in (2, 3):
            raise self._fail(f"version: expected GGUF version 2 or 3, got {version}")
        tensor_count, key_count = self._scalar(_U64, "tensor count"), self._scalar(_U64, "metadata count")
        self._check_count("tensor count", tensor_count, 24, _MOST_COUNT)
        self._check_count("metadata count", key_count, 13, _MOST_COUNT)
        self.metadata = metadata = Metadata()
        for _ in range(key_count):
            key = self._string("metadata key")
            if key in metadata:
                raise self._fail(f"metadata key {quoted(key)} is there twice")
            told = shortened(key)  # whatever is wrong with its value, the message is a line
            kind = self._scalar(_U32, told)
            again = partial(self._value_at, self._at, told, kind)
            metadata.add(key, self._value(told, kind), again)
            if self._at > _MOST_HEADER:
                raise self._too_long()
        self._read_tensor_table(tensor_count)

    def _check_count(self, what: str, count: int, least: int, most: int) -> None:
        """Refuses a count that the rest of the file cannot hold at `least` bytes each, and one above `most`."""
        if count * least > self._end - self._at:
            raise self._fail(f"{what}: got {count}, more than the file's {self._end} bytes can hold")
        if count > most:
            raise self._fail(f"{what}: expected at most {most}, got {count}")

    def _too_long(self) -> CheckpointError:
        return self._fail(f"header: expected at most {_MOST_HEADER} bytes of metadata and tensor names, got more")

    def _value_at(self, start: int, key: str, kind: int) -> Any:
        reader = copy(self)  # several threads may ask
        reader._at = start
        return reader._value(key, kind)

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind == _ARRAY:
            kind, count = self._scalar(_U32, key), self._scalar(_U64, key)
            if kind == _STRING:
                self._check_count(key, count, 8, _MOST_ITEMS)
                return self._strings(count, key)
            dtype = np.dtype(self._kind(key, kind))
            self._check_count(key, count, dtype.itemsize, _MOST_ITEMS)
            start = self._take(count * dtype.itemsize, key)
            return np.frombuffer(self.map, dtype, count, start).tolist() if count else []
        return self._scalar(self._kind(key, kind), key)

    def _kind(self, key: str, kind: int) -> str:
        if kind not in _SCALARS:
            problem = "nested arrays" if kind == _ARRAY else f"unknown value type {kind}"
            raise self._fail(f"metadata key {quoted(key)}: {problem}")
        return _SCALARS[kind]

    def _read_tensor_table(self, count: int) -> None:
        entries = []
        for _ in range(count):
            entries.append(self._tensor_entry())
            if self._at > _MOST_HEADER:
                raise self._too_long()
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._fail(f"general.alignment: expected a power of two, got {quoted(alignment)}")
        data = -(-self._at // alignment) * alignment
        for name, shape, type_id, offset in entries:
            if name in self.tensors:
                raise self._fail(f"tensor {quoted(name)} is there twice")
            self.tensors[name] = self._tensor(name, shape, type_id, offset, data, alignment)
        check_apart(self.path, ((tensor.start, tensor.nbytes, tensor.name) for tensor in self.tensors.values()))

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("tensor name")
        told = shortened(name)
        dims = self._scalar(_U32, told)
        if not 1 <= dims <= _MAX_DIMS:
            raise self._fail(f"tensor {quoted(name)}: expected 1 to {_MAX_DIMS} dimensions, got {dims}")
        shape = tuple(reversed([self._scalar(_U64, told) for _ in range(dims)]))
        return name, shape, self._scalar(_U32, told), self._scalar(_U64, told)

    def _tensor(
        self, name: str, shape: tuple[int, ...], type_id: int, offset: int, data: int, alignment: int
    ) -> GgufTensor:
        if type_id not in TENSOR_TYPES:
            raise self._fail(f"tensor {quoted(name)}: unknown tensor type {type_id}")
        kind = TENSOR_TYPES[type_id]
        block, block_bytes = block_sizes(kind)
        if 0 in shape or shape[-1] % block:
            raise self._fail(
                f"tensor {quoted(name)}: expected rows of a multiple of {block} elements for {kind}, got shape "
                f"{list(shape)}"
            )
        nbytes = prod(shape) // block * block_bytes
        if offset % alignment:
            raise self._fail(f"tensor {quoted(name)}: expected an offset aligned to {alignment}, got {offset}")
        if data + offset + nbytes > self._end:
            raise self._fail(
                f"tensor {quoted(name)}: expected {nbytes} bytes at offset {data + offset}, got a file of {self._end} "
                f"(truncated or corrupt)"
            )
        return GgufTensor(name, shape, kind, data + offset, nbytes, self.map)
