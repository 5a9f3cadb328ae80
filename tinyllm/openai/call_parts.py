"""What replies are read into: texts, thoughts, and parts of calls; and where a JSON value ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import uuid4


@dataclass(frozen=True)
class CallDelta:
    """A part of call `index`: the first has its id and name, the others add to its arguments, which are JSON text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Thought:
    """A part of what a model thinks before it answers."""

    text: str


Part = str | CallDelta
"""Of an answer."""
CallForm = Literal[
    "any", "exact", "tagged", "within", "[TOOL_CALLS]", "<|START_ACTION|>", "<|tool_call|>", "functools["
]
"""Which calls a reply may have: in any form; where a grammar holds it, those in JSON between Hermes' tags and untagged
ones whose name comes first, as it is; those in JSON between the tags alone; in any form between them; or those that
begin with a text of their own."""


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{uuid4().hex[:24]}"


class JsonEnd:
    """Finds where a JSON value ends that is an object or a list. Its text comes in pieces.

    depth: of brackets that are open before the first piece.
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = self._escaped = False

    def push(self, text: str) -> int | None:
        """How many characters of the next piece belong to the value. None: all of them, and it goes on. A `<` that is
        in no string ends a value that is not whole: what follows is a tag."""
        for place, char in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char == "<":
                return place
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return place + 1
        return None
