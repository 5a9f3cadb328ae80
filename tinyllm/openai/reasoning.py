"""What a model thinks, separated from its answer while both are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Protocol

from tinyllm.openai.call_parts import CallDelta, Part, Thought, new_call_id
from tinyllm.openai.tool_calls import ToolCallParser

THINK_TAGS = {
    "<think>": "</think>",
    "[THINK]": "[/THINK]",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>thought": "<channel|>",
}
"""What ends a thought, by what begins it: Qwen, DeepSeek, GLM and SmolLM; Mistral; Cohere; Gemma 4."""
THINK_TOKENS = (*THINK_TAGS, *THINK_TAGS.values(), "<|channel>")
"""Some tokenizers have them as special tokens."""
_CHANNEL, _MESSAGE, _START, _END, _CALL = "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>"
HARMONY_TAGS = (_CHANNEL, _MESSAGE, _START, _END, "<|constrain|>")
"""Special tokens of gpt-oss, which are the borders of a reply's messages."""
_TO = re.compile(r"to=functions\.([\w.-]+)")


class ReplyReader(Protocol):
    """Reads a reply piece by piece. `count` calls were found; `full`: there are as many as wanted."""

    @property
    def count(self) -> int: ...

    @property
    def full(self) -> bool: ...

    def push(self, text: str, last: bool = False) -> list[Part | Thought]:
        """The parts that are certain once this piece is known; with `last`, all that is left."""
        ...


def thought_end(prompt: str) -> str | None:
    """What ends the thought that a prompt begins for the model; None where it begins none."""
    return next((end for begin, end in THINK_TAGS.items() if prompt.rstrip().endswith(begin)), None)


class TaggedReader:
    """A reply whose thoughts, if any, come first and stand between tags.

    Args:
        calls: reads the answer; None: it is text alone.
        end: of the thought that the prompt began.
        thinks: whether there may be thoughts.
    """

    def __init__(self, calls: ToolCallParser | None, end: str | None = None, thinks: bool = True) -> None:
        self._calls, self._end = calls, end
        self._held = ""  # text of which it is not certain yet what it belongs to
        self._begins = thinks and end is None  # whether a tag may still begin a thought
        self._blank = end is not None  # whether blanks that come next belong to nothing: they are around a thought

    @property
    def count(self) -> int:
        return 0 if self._calls is None else self._calls.count

    @property
    def full(self) -> bool:
        return self._calls is not None and self._calls.full

    def push(self, text: str, last: bool = False) -> list[Part | Thought]:
        self._held += text
        if self._begins:
            stripped = self._held.lstrip()
            begin = next((tag for tag in THINK_TAGS if stripped.startswith(tag)), None)
            if begin is not None:
                self._held, self._end = stripped.removeprefix(begin), THINK_TAGS[begin]
            elif not last and any(tag.startswith(stripped) for tag in THINK_TAGS):
                return []
            self._begins, self._blank = False, begin is not None
        thoughts: list[Part | Thought] = [] if self._end is None else self._thoughts(self._end, last)
        return thoughts if self._end is not None and not last else thoughts + self._answer(last)

    def _thoughts(self, end: str, last: bool) -> list[Part | Thought]:
        thought, found, rest = self._held.partition(end)
        if not (found or last):
            half = next((n for n in range(len(end) - 1, 0, -1) if thought.endswith(end[:n])), 0)
            thought = thought[: len(thought) - half]
        thought = thought.rstrip()
        if found:
            self._held, self._end = rest, None
        else:
            self._held = self._held[len(thought) :]
        shown = thought.lstrip() if self._blank else thought
        self._blank = bool(found) or (self._blank and not shown)
        return [Thought(shown)] if shown else []

    def _answer(self, last: bool) -> list[Part | Thought]:
        text = "" if self._end is not None else self._held.lstrip() if self._blank else self._held
        self._held, self._blank = "", self._blank and not text
        if self._calls is None:
            return [text] if text else []
        return [*self._calls.push(text, last)]


class HarmonyReader:
    """A reply of gpt-oss: messages, each with a head that says who it is for. Those of the channel `analysis` are
    thoughts, those for a function are calls, and others the answer. A reply without a head is one.

    Args: as of `ToolCallParser`.
    """

    def __init__(
        self, names: Collection[str] = (), most: int | None = None, new_id: Callable[[], str] = new_call_id
    ) -> None:
        self._names, self._most, self._new_id = names, most, new_id
        self._held = ""
        self._kind: str | None = None  # of the message that is being read; None: this is its head
        self.count = 0

    @property
    def full(self) -> bool:
        return self._most is not None and self.count >= self._most and self._kind != "call"

    def push(self, text: str, last: bool = False) -> list[Part | Thought]:
        self._held += text
        parts: list[Part | Thought] = []
        while not self.full and (self._read_head(parts, last) if self._kind is None else self._read_body(parts, last)):
            pass
        if self.full:
            self._held = ""
        return parts

    def _read_head(self, parts: list[Part | Thought], last: bool) -> bool:
        head, found, body = self._held.partition(_MESSAGE)
        if not found:
            rest = self._held.lstrip()
            begins = (_START, _CHANNEL, _MESSAGE, "assistant", "to=")
            if any(tag.startswith(rest) or rest.startswith(tag) for tag in begins) and not last:
                return False
            self._held = "" if rest.startswith((_START, _CHANNEL)) else self._held  # a head that was cut off
            self._kind = "text"
            return bool(self._held)
        to = _TO.search(head)
        name = to[1] if to else None
        self._held = body
        if name in self._names:
            self._kind = "call"
            parts.append(CallDelta(self.count, id=self._new_id(), name=name))
            self.count += 1
        else:
            self._kind = "thought" if f"{_CHANNEL}analysis" in head else "text"
        return True

    def _read_body(self, parts: list[Part | Thought], last: bool) -> bool:
        places = [(place, tag) for tag in (_END, _CALL, _START) if (place := self._held.find(tag)) >= 0]
        if places:
            place, tag = min(places)
            body, self._held = self._held[:place], self._held[place + (0 if tag == _START else len(tag)) :]
        else:
            half = 0 if last else next((n for n in range(8, 0, -1) if self._ends_in_part_of_a_tag(n)), 0)
            body, self._held = self._held[: len(self._held) - half], self._held[len(self._held) - half :]
        if body:
            kinds: dict[str | None, Part | Thought] = {
                "call": CallDelta(self.count - 1, body),
                "thought": Thought(body),
            }
            parts.append(kinds.get(self._kind, body))
        if not places:
            return False
        self._kind = None
        return bool(self._held)

    def _ends_in_part_of_a_tag(self, length: int) -> bool:
        return len(self._held) >= length and any(tag.startswith(self._held[-length:]) for tag in (_END, _CALL, _START))
