"""What readers of files share: how they are opened, mapped into memory or as JSON, and whether tensors overlap. All say
what is wrong in one line.

Every file of a model is opened by `open_file`, the one place that looks whether a path is what it should be.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from tinyllm.errors import CheckpointError, quoted

MOST_JSON = 16 << 20
"""Most bytes of JSON that is read whole, as objects take thirty times the room of their text. Hundreds of thousands of
tensors are named in less."""
MOST_TEXT = 128 << 20
"""Most bytes of any other file that is read whole, such as a `tokenizer.json`."""


def open_file(path: Path) -> BinaryIO:
    """A file, open for reading. Raises `CheckpointError` for what is missing, not to be read, or no regular file: a
    pipe may wait for ever, and a device never ends."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: expected a readable file, got {reason}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CheckpointError(f"{path}: expected a file, got a pipe, a device or another thing that has no end")
    return file


def read_file(path: Path, most: int = MOST_TEXT) -> bytes:
    """All bytes of a file. Raises `CheckpointError` as `open_file` does, and for a file of more than `most` bytes."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise CheckpointError(f"{path}: expected at most {most >> 20} MiB, got {size >> 20}")
        try:
            return file.read(most)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def map_file(path: Path) -> mmap.mmap:
    """The file as a read-only memory map. Raises `CheckpointError` as `open_file` does, and for a file that is
    empty."""
    with open_file(path) as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{path}: expected a readable file, got {error.strerror or error}") from error
        except ValueError as error:  # what mmap says to a file of no bytes
            raise CheckpointError(f"{path}: expected a model file, got an empty one") from error


def let_go(mapped: mmap.mmap) -> None:
    """Give the pages read so far back to the system; whoever reads them again gets them again, from the file."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def identity(paths: Iterable[Path]) -> str:
    """Where files lie, how long they are and when they were written: changes with what is in them. Raises
    `CheckpointError` for one that is not there, as a link may lead nowhere."""
    try:
        stats = [(os.path.realpath(path), path.stat()) for path in paths]
    except OSError as error:
        raise CheckpointError(f"{error.filename}: expected a readable file, got {error.strerror or error}") from error
    return json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def check_apart(path: Path, extents: Iterable[tuple[int, int, str]]) -> None:
    """Raises `CheckpointError` where two of a file's tensors overlap; each is given by its start, bytes and name."""
    for (start, nbytes, left), (right_start, _, right) in pairwise(sorted(extents)):
        if start + nbytes > right_start:
            raise CheckpointError(f"{path}: tensors {quoted(left)} and {quoted(right)} overlap")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `CheckpointError` for a file that is missing, too large, no JSON, or no
    object."""
    return json_object(read_file(path, MOST_JSON), str(path))


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As `read_json`, and an empty dict where there is no such file."""
    return read_json(path) if os.path.exists(path) else {}


def json_object(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object from bytes. Raises `CheckpointError` naming `where` for what is no JSON, no object, or names a key
    twice."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise CheckpointError(f"{where}: {quoted(twice)} is there twice")
        return made

    try:
        value = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise CheckpointError(f"{where}: expected JSON, got {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value
