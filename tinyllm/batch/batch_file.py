"""A file of requests in OpenAI's batch format: each line is an object with `custom_id`, `method`, `url` and `body`."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tinyllm.errors import InvalidInputError, quoted, shortened
from tinyllm.models.text.json_text import check_shape

_FIELDS = ("custom_id", "method", "url", "body")
_BOM = b"\xef\xbb\xbf"
MOST_LINE = 16 << 20
"""Most bytes of a request, far more than fill a context. A longer line is never held whole."""
_TOO_LONG = f"expected at most {MOST_LINE} bytes, got more"


@dataclass(frozen=True)
class Line:
    """A request, and where it stands in the file.

    Args:
        number: of the line, from 1.
        offset, size: of the request in bytes.
        custom_id: None where the line has none that could be used.
        problem: what is wrong with the line, as (code, message); None: nothing that shows without a model.
    """

    number: int
    offset: int
    size: int
    custom_id: str | None
    url: str = ""
    problem: tuple[str, str] | None = None

    @property
    def key(self) -> str | int:
        """Tells which result is its own: the `custom_id`, or the line number where it has none."""
        return self.number if self.custom_id is None else self.custom_id


class BatchFile:
    """The requests of a file. It is read once to check each line, and each body again when it is needed, so that a
    large file stays on disk.

    Args:
        urls: those that a request may have.

    Raises:
        InvalidInputError: the file cannot be read again, holds no request, or a `custom_id` twice (both lines are
            named).
    """

    def __init__(self, path: Path, urls: Collection[str]) -> None:
        self.path = path
        if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):  # a pipe may wait for ever
            raise InvalidInputError(f"{path}: expected a file that can be read again, got something else")
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(path.open("rb"))
                self.lines = self._lines(urls)
            except OSError as error:
                raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
            stack.pop_all()  # it stays open for the bodies

    def body(self, line: Line) -> dict[str, Any]:
        """The body of a request. Raises `InvalidInputError` where the file was changed meanwhile."""
        self._file.seek(line.offset)
        request, problem = _parse(self._file.read(line.size))
        if problem or request.get("custom_id") != line.custom_id or not isinstance(request.get("body"), dict):
            raise InvalidInputError(f"{self.path}: line {line.number}: was changed while the batch ran")
        return dict(request["body"])

    def close(self) -> None:
        """Close the file; no bodies can be read any more."""
        self._file.close()

    def _lines(self, urls: Collection[str]) -> list[Line]:
        lines: list[Line] = []
        numbers: dict[str, int] = {}  # of the first line with a custom_id
        offset = 0
        for number, data in enumerate(iter(partial(self._file.readline, MOST_LINE + 1), b""), 1):
            if len(data) > MOST_LINE:
                lines.append(Line(number, offset, len(data), None, problem=("invalid_json_line", _TOO_LONG)))
                offset += len(data) + self._rest_of_line(data)
                continue
            start, offset = offset, offset + len(data)
            if number == 1 and data.startswith(_BOM):
                start, data = len(_BOM), data[len(_BOM) :]
            if not data.strip():
                continue
            line = _check(number, start, data, urls)
            if line.custom_id is not None:
                first = numbers.setdefault(line.custom_id, number)
                if first != number:
                    raise InvalidInputError(
                        f"{self.path}: line {number}: custom_id: expected one that no other line has, got "
                        f"{quoted(line.custom_id)}, which line {first} has"
                    )
            lines.append(line)
        if not lines:
            raise InvalidInputError(f"{self.path}: expected a request on each line, got an empty file")
        return lines

    def _rest_of_line(self, data: bytes) -> int:
        """Read on to the end of a line that has begun, which nobody keeps; the bytes of it."""
        size = 0
        while data and not data.endswith(b"\n"):
            data = self._file.readline(MOST_LINE)
            size += len(data)
        return size


def _parse(data: bytes) -> tuple[dict[str, Any], str]:
    """(object, why it cannot be read)"""
    try:
        check_shape(data, "line")
        request = json.loads(data.decode().rstrip("\r\n"))
    except InvalidInputError as error:
        return {}, str(error).removeprefix("line: ")
    except UnicodeDecodeError as error:
        return {}, f"expected UTF-8, got byte 0x{data[error.start]:02x} at position {error.start}"
    except json.JSONDecodeError as error:
        return {}, f"expected JSON, got: {error.msg} at column {error.colno}"
    except (RecursionError, ValueError) as error:
        return {}, f"expected JSON, got: {' '.join(str(error).split())}"
    if not isinstance(request, dict):
        return {}, f"expected an object, got {type(request).__name__}"
    return request, ""


def _check(number: int, offset: int, data: bytes, urls: Collection[str]) -> Line:
    request, problem = _parse(data)
    if problem:
        return Line(number, offset, len(data), None, problem=("invalid_json_line", problem))
    value = request.get("custom_id")
    custom_id = value if isinstance(value, str) and value else None
    message = _problem(request, custom_id, urls)
    return Line(
        number, offset, len(data), custom_id, str(request.get("url")), ("invalid_request", message) if message else None
    )


def _problem(request: dict[str, Any], custom_id: str | None, urls: Collection[str]) -> str:
    """The first thing that is wrong with a request; empty: nothing."""
    missing = [name for name in _FIELDS if name not in request]
    unknown = [name for name in request if name not in _FIELDS]
    if missing or unknown:
        fields = f"{', '.join(missing)}: missing" if missing else f"{', '.join(unknown)}: unknown"
        return f"{shortened(fields)}; a request has {', '.join(_FIELDS)}"
    if custom_id is None:
        return f"custom_id: expected some text, got {quoted(request['custom_id'])}"
    if request["method"] != "POST":
        return f"method: expected 'POST', got {quoted(request['method'])}"
    if not isinstance(request["url"], str) or request["url"] not in urls:
        return f"url: expected one of {', '.join(urls)}, got {quoted(request['url'])}"
    if not isinstance(request["body"], dict):
        return f"body: expected an object, got {type(request['body']).__name__}"
    return ""
