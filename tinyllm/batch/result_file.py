"""A file of results in OpenAI's batch format, a line for each. It survives a kill: what it has is done, and is not done
again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinyllm.errors import InvalidInputError, TinyllmError, quoted

Key = str | int
START = b'{"id": "batch_req_'
"""How each line of a result begins. A last line without an end is removed only where it may be one."""


class ResultFile:
    """A file of results, open to add more. A last line that is half written is removed.

    `done` has the keys of the results that it had when it was opened, `failed` the number of those that are no replies.

    Args:
        fsync_seconds: results reach the disk at least this often, while some are added.

    Raises:
        InvalidInputError: the file holds something else than results, or a result twice.
        TinyllmError: it cannot be opened, or another process writes it.
    """

    def __init__(self, path: Path, fsync_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(os.path.realpath(path))  # the file itself, where the path is a link
        self._seconds, self._clock = fsync_seconds, clock
        self._synced = clock()
        with ExitStack() as stack:
            try:
                if os.path.exists(path) and not os.path.isfile(path):
                    raise InvalidInputError(f"{path}: expected a file that can be read again, got something else")
                self._file = stack.enter_context(self.path.open("ab+", buffering=0))
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise TinyllmError(f"{path}: another batch writes to it") from error
            except OSError as error:
                raise TinyllmError(f"{path}: cannot be written: {error.strerror}") from error
            self.done, self.failed = self._read()
            stack.pop_all()  # it stays open for more results

    def add(self, entry: dict[str, Any]) -> None:
        """Append a result. From here on it survives a kill of this process, and from the next fsync on a loss of
        power."""
        data = _bytes(entry) + b"\n"
        try:
            while data:
                data = data[self._file.write(data) :]
            if self._clock() - self._synced >= self._seconds:
                self.sync()
        except OSError as error:
            raise TinyllmError(f"{self.path}: cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """Bring everything that was written to the disk."""
        os.fsync(self._file.fileno())
        self._synced = self._clock()

    def close(self) -> None:
        """Sync, and close the file."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def order(self, keys: Iterable[Key]) -> None:
        """Put the results into the order of their keys: into a new file, which then takes the place of the old one."""
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
        """(keys of the results, how many of them failed)"""
        numbers: dict[Key, int] = {}  # of the line with the result of a key
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
                        f"{self.path}: line {number}: the result of {quoted(key)} is there twice, on line "
                        f"{first} as well"
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
            entry = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{self.path}: line {number}: {_NO_RESULT}") from error
        if not isinstance(entry, dict) or not {"custom_id", "response", "error"} <= entry.keys() or _key(entry) is None:
            raise InvalidInputError(f"{self.path}: line {number}: {_NO_RESULT}")
        return entry


_NO_RESULT = "expected the result of a batch; name a new file, or one that a batch wrote"


def _key(entry: dict[str, Any]) -> Any:
    """The `custom_id`, or the line number of a request without one; None for what is no result."""
    error = entry.get("error")
    if entry.get("custom_id") is None:
        return error.get("line") if isinstance(error, dict) else None
    return entry["custom_id"] if isinstance(entry["custom_id"], str) else None


def has_failed(entry: dict[str, Any]) -> bool:
    """Whether a result is anything but a reply."""
    response = entry["response"]
    return not isinstance(response, dict) or response.get("status_code") != 200


def _bytes(entry: dict[str, Any]) -> bytes:
    try:
        return json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
        return json.dumps(entry).encode()


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file; it need not exist."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
