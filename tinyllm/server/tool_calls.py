"""Tool calls in the Hermes and Qwen form, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, found in a reply
as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import uuid4

BEGIN, END = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class CallDelta:
    """A bit of call `index`: its id and name at first, then its arguments as JSON text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{uuid4().hex[:24]}"


class JsonEnd:
    """Finds where a JSON object ends, fed bit by bit."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def push(self, text: str) -> int | None:
        """How many characters of this bit belong to the object; None: all, and more is to come."""
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


class ToolCalls:
    """Parts text from calls. What only looks like a call, or calls a tool that is not known, stays text.

    Args:
        names: of the tools.
        inside: the prompt ends with the tag that begins a call.
        most: calls after which the reply is `full`; None: any number.
    """

    def __init__(
        self,
        names: Collection[str],
        inside: bool = False,
        most: int | None = None,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._names, self._most, self._new_id = names, most, new_id
        self._held = BEGIN if inside else ""
        self._json: JsonEnd | None = None
        self._closing = False
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether no more calls are wanted, and the last one is whole."""
        return self._most is not None and self.count >= self._most and self._json is None

    def push(self, text: str, last: bool = False) -> list[str | CallDelta]:
        """Text and bits of calls that are certain by now; with `last`, all that is left."""
        self._held += text
        found: list[str | CallDelta] = []
        while self._held and not self.full and self._step(found, last):
            pass
        if self.full:
            self._held = ""
        return found

    def _step(self, found: list[str | CallDelta], last: bool) -> bool:
        """Take something off what is held; False: nothing is certain yet."""
        if self._json is not None:
            return self._arguments(self._json, found)
        if self._closing:
            return self._close(last)
        start = self._held.find(BEGIN)
        if start < 0:
            return self._text(found, len(self._held) if last else _certain(self._held))
        _say(found, self._held[:start].rstrip())
        self._held = self._held[start:]
        return self._begin(found, last)

    def _begin(self, found: list[str | CallDelta], last: bool) -> bool:
        """What follows the tag: a head whose arguments can be passed on as they come, or something that has to be seen
        whole."""
        body = self._held[len(BEGIN) :]
        head = _HEAD.match(body)
        if head:
            name = _string(head[1])
            if name in self._names:
                found.append(CallDelta(self._next(), id=self._new_id(), name=name))
                self._held, self._json = body[head.end() :], JsonEnd()
                return True
        end = body.find(END)
        if end < 0 and not last:
            return False
        whole = body if end < 0 else body[:end]
        call = self._whole(whole)
        if call is None:
            _say(found, BEGIN + whole + (END if end >= 0 else ""))
        else:
            index = self._next()
            found += [CallDelta(index, id=self._new_id(), name=call[0]), CallDelta(index, call[1])]
        self._held = "" if end < 0 else body[end + len(END) :]
        return True

    def _arguments(self, end: JsonEnd, found: list[str | CallDelta]) -> bool:
        length = end.push(self._held)
        taken = self._held if length is None else self._held[:length]
        found.append(CallDelta(self.count - 1, taken))
        self._held = self._held[len(taken) :]
        if length is not None:
            self._json, self._closing = None, True
        return True

    def _close(self, last: bool) -> bool:
        """Drop the brace that closes the call, and its tag."""
        rest = re.match(rf"\s*\}}?\s*(?:{re.escape(END)})?", self._held)
        taken = rest[0] if rest else ""
        if not taken.endswith(END) and not last and (taken == self._held or END.startswith(self._held[len(taken) :])):
            return False
        self._held, self._closing = self._held[len(taken) :], False
        return True

    def _text(self, found: list[str | CallDelta], length: int) -> bool:
        text, self._held = self._held[:length], self._held[length:]
        if not self.count or text.strip():  # blanks after a call are no text
            _say(found, text)
        return False

    def _next(self) -> int:
        self.count += 1
        return self.count - 1

    def _whole(self, text: str) -> tuple[str, str] | None:
        """(name, arguments) of a call in some other form: arguments first, or as text, or none."""
        try:
            call = json.loads(text)
        except (ValueError, RecursionError):
            return None
        name = call.get("name") if isinstance(call, dict) else None
        if not isinstance(name, str) or name not in self._names:
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _say(found: list[str | CallDelta], text: str) -> None:
    if text:
        found.append(text)


def _string(text: str) -> str | None:
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def _certain(text: str) -> int:
    """How much of a text cannot be the beginning of a tag, nor blanks before one."""
    keep = next((n for n in range(min(len(text), len(BEGIN)), 0, -1) if text.endswith(BEGIN[:n])), 0)
    return len(text[: len(text) - keep].rstrip())
