"""Tool calls in the form of Hermes and Qwen models, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, parsed
out of a reply while it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import uuid4

BEGIN, END = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
"""What precedes the arguments, where they come last, as in nearly all calls."""


@dataclass(frozen=True)
class CallDelta:
    """A part of call `index`: the first has its id and name, the others add to its arguments, which are JSON text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Part = str | CallDelta


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{uuid4().hex[:24]}"


class JsonEnd:
    """Finds where a JSON object ends. Its text comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def push(self, text: str) -> int | None:
        """How many characters of the next piece belong to the object. None: all of them, and it goes on."""
        for place, char in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return place + 1
        return None


class ToolCallParser:
    """Separates the calls in a reply from its text. What only looks like a call, or calls an unknown tool, is text.

    Args:
        names: of the tools that may be called.
        inside: whether the prompt ends with the tag that begins a call.
        most: the number of calls after which the reply is `full`; None: any number.
        new_id: makes the ids of calls.
    """

    def __init__(
        self,
        names: Collection[str],
        inside: bool = False,
        most: int | None = None,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._names, self._most, self._new_id = names, most, new_id
        self._held = BEGIN if inside else ""  # text of which it is not certain yet what it belongs to
        self._arguments_end: JsonEnd | None = None  # set while the arguments of a call are being read
        self._closing = False  # whether a call's arguments are over and its end is not
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether there are as many calls as wanted, and the last one is complete."""
        return self._most is not None and self.count >= self._most and self._arguments_end is None

    def push(self, text: str, last: bool = False) -> list[Part]:
        """The texts and parts of calls that are certain once this piece is known; with `last`, all that is left."""
        self._held += text
        parts: list[Part] = []
        while self._held and not self.full and self._step(parts, last):
            pass
        if self.full:
            self._held = ""
        return parts

    def _step(self, parts: list[Part], last: bool) -> bool:
        """Take what comes first off the held text. False: it is not certain yet what that is."""
        if self._arguments_end is not None:
            return self._take_arguments(self._arguments_end, parts)
        if self._closing:
            return self._take_end(last)
        start = self._held.find(BEGIN)
        if start < 0:
            return self._take_text(parts, len(self._held) if last else _certain_length(self._held))
        _add_text(parts, self._held[:start].rstrip())
        self._held = self._held[start:]
        return self._take_beginning(parts, last)

    def _take_beginning(self, parts: list[Part], last: bool) -> bool:
        """A tag, and either a head whose arguments can be passed on piece by piece, or a whole call in another form."""
        body = self._held[len(BEGIN) :]
        head = _HEAD.match(body)
        if head:
            name = _json_string(head[1])
            if name in self._names:
                parts.append(CallDelta(self._next_index(), id=self._new_id(), name=name))
                self._held, self._arguments_end = body[head.end() :], JsonEnd()
                return True
        end = body.find(END)
        if end < 0 and not last:
            return False
        text = body if end < 0 else body[:end]
        call = self._parse(text)
        if call is None:
            _add_text(parts, BEGIN + text + (END if end >= 0 else ""))
        else:
            index = self._next_index()
            parts += [CallDelta(index, id=self._new_id(), name=call[0]), CallDelta(index, call[1])]
        self._held = "" if end < 0 else body[end + len(END) :]
        return True

    def _take_arguments(self, end: JsonEnd, parts: list[Part]) -> bool:
        length = end.push(self._held)
        arguments = self._held if length is None else self._held[:length]
        parts.append(CallDelta(self.count - 1, arguments))
        self._held = self._held[len(arguments) :]
        if length is not None:
            self._arguments_end, self._closing = None, True
        return True

    def _take_end(self, last: bool) -> bool:
        """Drop the brace that closes the call, and its tag."""
        match = re.match(rf"\s*\}}?\s*(?:{re.escape(END)})?", self._held)
        text = match[0] if match else ""
        if not text.endswith(END) and not last and (text == self._held or END.startswith(self._held[len(text) :])):
            return False
        self._held, self._closing = self._held[len(text) :], False
        return True

    def _take_text(self, parts: list[Part], length: int) -> bool:
        text, self._held = self._held[:length], self._held[length:]
        if not self.count or text.strip():  # blanks after a call are no text
            _add_text(parts, text)
        return False

    def _next_index(self) -> int:
        self.count += 1
        return self.count - 1

    def _parse(self, text: str) -> tuple[str, str] | None:
        """(name, arguments) of a call that is complete: its arguments may come first, be a text, or be missing."""
        try:
            call = json.loads(text)
        except (ValueError, RecursionError):
            return None
        name = call.get("name") if isinstance(call, dict) else None
        if not isinstance(name, str) or name not in self._names:
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _add_text(parts: list[Part], text: str) -> None:
    if text:
        parts.append(text)


def _json_string(text: str) -> str | None:
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def _certain_length(text: str) -> int:
    """How many characters cannot belong to a tag, nor to blanks before one, whatever follows them."""
    tag = next((n for n in range(min(len(text), len(BEGIN)), 0, -1) if text.endswith(BEGIN[:n])), 0)
    return len(text[: len(text) - tag].rstrip())
