"""Results in OpenAI's batch format, a line each, on files that survive a kill: what is there is done, and is not done
again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tinyllm.errors import InvalidInputError, TinyllmError

Key = str | int
START = b'{"id": "batch_req_'
"""What each line of ours begins with: a last line without an end is cut off only where it may be one of them."""


class ResultFile:
    """A file of results, open for more. A half-written last line is cut off; a file that another process writes is
    refused.

    `done` has the keys of the results that were there, `failed` says how many of them are no replies.

    Raises:
        InvalidInputError: the file holds something else than results, or a result twice.
        TinyllmError: it cannot be opened, or another process writes it.
    """

    def __init__(self, path: Path, fsync_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path.resolve()  # the file itself, where the path is a link
        self._seconds, self._clock = fsync_seconds, clock
        self._synced = clock()
        try:
            if path.exists() and not path.is_file():
                raise InvalidInputError(f"{path}: expected a file that can be read again, got something else")
            self._file = self.path.open("ab+", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise TinyllmError(f"{path}: another batch writes to it") from error
        except OSError as error:
            raise TinyllmError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            self.done, self.failed = self._read()
        except BaseException:
            self._file.close()
            raise

    def add(self, entry: dict[str, Any]) -> None:
        """Append a result. It survives a kill of this process from here on, and a loss of power from the next fsync
        on."""
        data = _bytes(entry) + b"\n"
        try:
            while data:
                data = data[self._file.write(data) :]
            if self._clock() - self._synced >= self._seconds:
                self.sync()
        except OSError as error:
            raise TinyllmError(f"{self.path}: cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """Everything written reaches the disk."""
        os.fsync(self._file.fileno())
        self._synced = self._clock()

    def close(self) -> None:
        """Sync and let go of it."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def order(self, keys: Iterable[Key]) -> None:
        """Put the results into this order: into a new file, which then takes the place of the old one."""
        places: dict[Key, tuple[int, int]] = {}
        offset = 0
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            with self.path.open("rb") as old:
                for data in old:
                    places[_key(json.loads(data))] = offset, len(data)
                    offset += len(data)
                with part.open("wb") as new:
                    for key in keys:
                        if key in places:
                            start, size = places[key]
                            old.seek(start)
                            new.write(old.read(size))
                    new.flush()
                    os.fsync(new.fileno())
            shutil.copymode(self.path, part)
            part.replace(self.path)
        except OSError as error:
            raise TinyllmError(
                f"{part}: cannot be written: {error.strerror}; the results are all in {self.path}"
            ) from error

    def _read(self) -> tuple[set[Key], int]:
        """(keys of the results that are there, how many of them failed)"""
        numbers: dict[Key, int] = {}
        failed = whole = 0
        with self.path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if not data.endswith(b"\n"):
                    self._cut(number, data, whole)
                    break
                whole += len(data)
                entry = self._entry(number, data)
                key = _key(entry)
                first = numbers.setdefault(key, number)
                if first != number:
                    raise InvalidInputError(
                        f"{self.path}: line {number}: the result of {key!r} is there twice, on line {first} as well"
                    )
                failed += has_failed(entry)
        return set(numbers), failed

    def _cut(self, number: int, data: bytes, at: int) -> None:
        if not (
            data.startswith(START) or START.startswith(data) or not data.strip(b"\0")
        ):  # a loss of power may leave zeros
            raise InvalidInputError(f"{self.path}: line {number}: {_NO_RESULT}")
        self._file.truncate(at)

    def _entry(self, number: int, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{self.path}: line {number}: {_NO_RESULT}") from error
        if not isinstance(found, dict) or not {"custom_id", "response", "error"} <= found.keys() or _key(found) is None:
            raise InvalidInputError(f"{self.path}: line {number}: {_NO_RESULT}")
        return found


_NO_RESULT = "expected the result of a batch; name a new file, or one that a batch wrote"


def _key(entry: dict[str, Any]) -> Any:
    """The `custom_id`; the line number of a request without one; None for what is no result."""
    error = entry.get("error")
    if entry.get("custom_id") is None:
        return error.get("line") if isinstance(error, dict) else None
    return entry["custom_id"] if isinstance(entry["custom_id"], str) else None


def has_failed(entry: dict[str, Any]) -> bool:
    """Whether it is anything but a reply."""
    response = entry["response"]
    return not isinstance(response, dict) or response.get("status_code") != 200


def _bytes(entry: dict[str, Any]) -> bytes:
    try:
        return json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
        return json.dumps(entry).encode()


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file; it need not exist."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and os.path.samefile(one, other))
