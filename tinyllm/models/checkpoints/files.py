"""What readers of files share: how they are opened, mapped into memory or as JSON, and whether tensors overlap. All say
what is wrong in one line."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tinyllm.errors import CheckpointError


def map_file(path: Path) -> mmap.mmap:
    """The file as a read-only memory map. Raises `CheckpointError` for a file that is missing, unreadable or empty."""
    try:
        with path.open("rb") as file:
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
    """Where files lie, how long they are and when they were written: changes with what is in them."""
    stats = [(str(path.resolve()), path.stat()) for path in paths]
    return json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def check_apart(path: Path, extents: Iterable[tuple[int, int, str]]) -> None:
    """Raises `CheckpointError` where two of a file's tensors overlap; each is given by its start, bytes and name."""
    for (start, nbytes, left), (right_start, _, right) in pairwise(sorted(extents)):
        if start + nbytes > right_start:
            raise CheckpointError(f"{path}: tensors {left!r} and {right!r} overlap")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `CheckpointError` for a file that is missing, no JSON, or no object."""
    try:
        return json_object(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: expected a readable JSON file, got {error.strerror or error}") from error


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As `read_json`, and an empty dict where there is no such file."""
    return read_json(path) if path.exists() else {}


def json_object(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object from bytes. Raises `CheckpointError` naming `where` for what is no JSON, no object, or names a key
    twice."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{where}: {twice!r} is there twice")
        return made

    try:
        value = json.loads(text, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise CheckpointError(f"{where}: expected JSON, got {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value
