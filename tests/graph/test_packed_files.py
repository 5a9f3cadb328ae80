"""Packed weights in files: what is read back is what was written, and what is anything else is never read."""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyllm.graph.packed_files import PackedFiles
from tinyllm.graph.packed_format import ALIGNMENT, MARK

SUMMARY = struct.Struct("<QL")
"""Length and checksum of the header, after the mark."""
KEY = ("checkpoint", "model.layers.0.weight", "affine4/32[4, 64]", "rows16-1")
ARRAYS = {
    "q": np.arange(24, dtype=np.uint8).reshape(4, 6),
    "scales": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
}


@pytest.fixture
def files(tmp_path: Path) -> PackedFiles:
    return PackedFiles(tmp_path / "not" / "there" / "yet")


def same(kept: Any, arrays: dict[str, np.ndarray]) -> bool:
    """Names, dtypes, shapes and numbers."""
    return (
        isinstance(kept, dict)
        and list(kept) == list(arrays)
        and all(
            (kept[n].dtype, kept[n].shape, kept[n].tobytes()) == (a.dtype, a.shape, a.tobytes())
            for n, a in arrays.items()
        )
    )


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.arange(6, dtype=np.int8)[::2],
        np.array(2.5),
        np.zeros((0, 3), np.uint32),
        np.array([True, False]),
        np.arange(3, dtype=np.float16),
        np.arange(3).astype(ml_dtypes.bfloat16),
        np.arange(3, dtype=">i4"),
        np.broadcast_to(np.float32(7), (3, 2)),
    ],
    ids=[
        "matrix",
        "transposed",
        "strided",
        "number",
        "empty",
        "bool",
        "float16",
        "bfloat16",
        "big-endian",
        "broadcast",
    ],
)
def test_what_is_kept_is_found(files: PackedFiles, array: np.ndarray) -> None:
    """Beside others, in their order."""
    arrays = {"first": np.ones(3, np.int8), "it": array, "last": np.ones(5)}
    assert files.find(*KEY) is None
    assert same(files.keep(arrays, *KEY), arrays)
    assert same(files.find(*KEY), arrays)
    assert same(PackedFiles(files.folder).find(*KEY), arrays)


def test_arrays_are_mapped_aligned_and_read_only(files: PackedFiles) -> None:
    """What one process writes to the file all others see, so they share its memory."""
    for kept in (files.keep(ARRAYS, *KEY), files.find(*KEY)):
        assert kept is not None
        for array in kept.values():
            assert array.ctypes.data % ALIGNMENT == 0 and not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[0, 0] = 1
    content = files.path(*KEY).read_bytes()
    with files.path(*KEY).open("r+b") as file:
        file.seek(content.index(ARRAYS["q"].tobytes()))
        file.write(b"\x63")
    assert kept is not None and kept["q"][0, 0] == 0x63


@pytest.mark.parametrize("place", range(4), ids=["checkpoint", "weight", "form", "layout"])
def test_another_key_is_another_file(files: PackedFiles, place: int) -> None:
    files.keep(ARRAYS, *KEY)
    other = [*KEY[:place], KEY[place] + "x", *KEY[place + 1 :]]
    assert files.find(*other) is None and files.path(*other) != files.path(*KEY)
    files.keep({}, *other)
    assert files.find(*other) == {} and same(files.find(*KEY), ARRAYS)


def _with_header(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A file whose header is changed, and whose arrays stay where they were."""
    start = len(MARK) + SUMMARY.size
    length, _ = SUMMARY.unpack_from(content, len(MARK))
    header = json.loads(content[start : start + length])
    text = json.dumps(change(header) or header).encode()
    begin = -(-(start + length) // ALIGNMENT) * ALIGNMENT
    padded = -(-(start + len(text)) // ALIGNMENT) * ALIGNMENT
    return _begin(text).ljust(padded, b"\0") + content[begin:]


def _begin(header: bytes, length: int | None = None) -> bytes:
    """What a file with this header begins with, checksum and all."""
    return MARK + SUMMARY.pack(len(header) if length is None else length, zlib.crc32(header)) + header


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no bytes": lambda content: b"",
    "part of the mark": lambda content: content[:5],
    "the mark alone": lambda content: content[: len(MARK)],
    "part of the length": lambda content: content[: len(MARK) + 3],
    "part of the header": lambda content: content[: len(MARK) + 40],
    "no arrays": lambda content: content[:-128],
    "a byte too few": lambda content: content[:-1],
    "a byte too many": lambda content: content + b"\0",
    "garbage": lambda content: b"\x93NUMPY" + content,
    "another version": lambda content: content.replace(MARK, MARK.replace(b"1", b"2"), 1),
    "a header of garbage": lambda content: _begin(b"\xff" * 200) + content,
    "a header of brackets": lambda content: _begin(b"[" * 10**5),
    "a header without end": lambda content: _begin(content[len(MARK) + SUMMARY.size :], 2**63),
    "a header of nothing": lambda content: _begin(b"") + content,
    "another place in the header": lambda content: content.replace(b'"start": 0', b'"start": 8', 1),
    "a list as header": lambda content: _with_header(content, lambda header: [header]),
    "another key inside": lambda content: _with_header(content, lambda header: header.update(key=["a", "b", "c", "d"])),
    "no key": lambda content: _with_header(content, lambda header: header.pop("key") and None),
    "no arrays named": lambda content: _with_header(content, lambda header: header.pop("arrays") and None),
    "a list of arrays": lambda content: _with_header(content, lambda header: header.update(arrays=[])),
    "an unknown dtype": lambda content: _with_header(
        content, lambda header: header["arrays"]["q"].update(dtype="float7")
    ),
    "an array past the end": lambda content: _with_header(
        content, lambda header: header["arrays"]["q"].update(start=10**6)
    ),
    "an array before the start": lambda content: _with_header(
        content, lambda header: header["arrays"]["q"].update(start=-(10**6))
    ),
    "an array too large": lambda content: _with_header(
        content, lambda header: header["arrays"]["q"].update(shape=[10**30])
    ),
    "a size below 0": lambda content: _with_header(content, lambda header: header["arrays"]["q"].update(shape=[-1, 6])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_made_anew(files: PackedFiles, damage: str) -> None:
    files.keep(ARRAYS, *KEY)
    path = files.path(*KEY)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert files.find(*KEY) is None
    assert same(files.keep(ARRAYS, *KEY), ARRAYS) and same(files.find(*KEY), ARRAYS)


@given(place=st.integers(0, 500), byte=st.integers(0, 255), length=st.none() | st.integers(0, 600))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_raises_or_moves_an_array(files: PackedFiles, place: int, byte: int, length: int | None) -> None:
    """A byte that is another is read, if at all, as that byte alone."""
    files.path(*KEY).unlink(missing_ok=True)
    files.keep(ARRAYS, *KEY)
    content = bytearray(files.path(*KEY).read_bytes())
    content[min(place, len(content) - 1)] = byte
    files.path(*KEY).write_bytes(content[:length])
    found = files.find(*KEY)
    if found is None:
        assert same(files.keep(ARRAYS, *KEY), ARRAYS)
    else:
        assert [(n, a.dtype, a.shape) for n, a in found.items()] == [(n, a.dtype, a.shape) for n, a in ARRAYS.items()]
        bytes_of = [b"".join(array.tobytes() for array in arrays.values()) for arrays in (found, ARRAYS)]
        assert sum(one != other for one, other in zip(*bytes_of, strict=True)) <= 1


def test_those_who_pack_at_once_share_one_file(files: PackedFiles) -> None:
    """Replicas that start together on an empty folder: that of the first is mapped by all."""
    files.keep(ARRAYS, *KEY)
    before, late = files.path(*KEY).stat(), PackedFiles(files.folder)
    assert same(late.keep(ARRAYS, *KEY), ARRAYS) and (files.written, late.written) == (before.st_size, 0)
    assert files.path(*KEY).stat().st_ino == before.st_ino and len(os.listdir(files.path(*KEY).parent)) == 1


def test_a_mapped_file_may_be_replaced(files: PackedFiles) -> None:
    """Who has it goes on reading what was there."""
    old = files.keep(ARRAYS, *KEY)
    files.path(*KEY).unlink()
    new = {name: array[::-1].copy() for name, array in ARRAYS.items()}
    assert same(files.keep(new, *KEY), new) and same(old, ARRAYS)


def keep_and_look(folder: Path, seed: int) -> bool:
    """Whether one writer's file is there, and nothing of another's in it, when this one has written."""
    files = PackedFiles(folder)
    for kept in (
        files.keep({"a": np.full((300, 300), seed, np.int32), "b": np.full(7, seed, np.float32)}, *KEY),
        files.find(*KEY),
    ):
        if kept is None or len({*np.unique(kept["a"]).tolist(), *np.unique(kept["b"]).tolist()}) != 1:
            return False
    return True


def test_threads_that_write_at_once_leave_a_whole_file(files: PackedFiles) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda seed: keep_and_look(files.folder, seed), range(64)))
    assert [file for file in files.folder.rglob("*") if file.is_file()] == [files.path(*KEY)]


def test_processes_that_write_at_once_leave_a_whole_file(files: PackedFiles) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert all(pool.starmap(keep_and_look, [(files.folder, seed) for seed in range(16)]))
    assert [file for file in files.folder.rglob("*") if file.is_file()] == [files.path(*KEY)]
