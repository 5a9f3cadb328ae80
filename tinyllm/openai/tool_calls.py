"""Tool calls, parsed out of a reply while it is written.

Hermes and Qwen models write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, Llama models
`{"name": ..., "parameters": {...}}` as the whole reply, after `<|python_tag|>` or nothing. The keys may come in any
order and beside others, a call may be wrapped as `{"type": "function", "function": {...}}`, and several may follow one
another, or be a list. GLM-4 models write `name` and the arguments on lines of their own, as the whole reply. Other
forms are those of `call_formats`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection

from tinyllm.engine.grammar.calls import PYTHON_TAG
from tinyllm.models.text.call_tags import BEGIN, END
from tinyllm.openai.call_formats import FORMATS, FUNCTION, GLM, CallFormat, Schemas
from tinyllm.openai.call_parts import CallDelta, CallForm, JsonEnd, Part, new_call_id
from tinyllm.openai.call_values import calls_of, parsed

_NAME = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_HEAD = re.compile(_NAME.pattern + r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
"""What precedes the arguments, where they come last, as in nearly all calls."""
_KEYS = ("name", "arguments", "parameters", "type", "function", "id")
"""Of objects that may be calls. What begins with another key is none."""
_FIRST_KEY = re.compile(r'\s*(?:\[\s*)?(?:\{\s*(?:"([^"\\]*)("?))?)?')


class ToolCallParser:
    """Separates the calls in a reply from its text. What only looks like a call, or calls an unknown tool, is text.

    Args:
        names: of the tools that may be called.
        most: the number of calls after which the reply is `full`; None: any number.
        form: which of what may be a call is one.
        new_id: makes the ids of calls.
        schemas: of the tools' arguments, for the forms that write them without types.
    """

    def __init__(
        self,
        names: Collection[str],
        most: int | None = None,
        form: CallForm = "any",
        new_id: Callable[[], str] = new_call_id,
        schemas: Schemas | None = None,
    ) -> None:
        self._schemas = schemas or {}
        own = {its.begin: its for its in FORMATS if form in ("any", its.begin)}
        self._formats: dict[str, CallFormat | None] = {**own}
        if form == "any" or not own:
            self._formats[BEGIN] = None
        self._format: CallFormat = FUNCTION  # of what is being read whole
        self._names, self._most, self._form, self._new_id = names, most, form, new_id
        self._held = ""  # text of which it is not certain yet what it belongs to
        self._lead = ""  # what precedes it, which is text if no call follows
        self._tagged = False  # whether a tag began what is being read
        self._spoke = True  # whether there is text since the last call, or no call
        self._end = JsonEnd()  # of the value that is being read
        self._scanned = 0  # characters of the held text that `_end` knows
        self._step: Callable[[list[Part], bool], bool]
        self._step = self._read_beginning if form in ("any", "exact") else self._read_text
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether there are as many calls as wanted, and the last one is complete."""
        return (
            self._most is not None
            and self.count >= self._most
            and self._step
            not in (
                self._read_arguments,
                self._read_bare_arguments,
            )
        )

    def push(self, text: str, last: bool = False) -> list[Part]:
        """The texts and parts of calls that are certain once this piece is known; with `last`, all that is left."""
        self._held += text
        parts: list[Part] = []
        while not self.full and (self._held or self._lead) and self._step(parts, last):
            pass  # each step takes what comes first off the held text; False: it is not certain yet what that is
        if self.full:
            self._held = self._lead = ""
        return parts

    def _read_beginning(self, parts: list[Part], last: bool) -> bool:
        """Of the reply, which may be a call without tags."""
        text = self._held.lstrip()
        if not last and PYTHON_TAG.startswith(text):
            return False
        if self._form == "any":
            name = next((name for name in self._names if text.startswith(f"{name}\n{{")), None)
            if name is not None:
                parts.append(CallDelta(self._next_index(), id=self._new_id(), name=name))
                self._held, self._end, self._step = text[len(name) + 1 :], JsonEnd(), self._read_bare_arguments
                return True
            if not last and any(f"{name}\n{{".startswith(text) for name in self._names):
                return False
        if text.startswith(PYTHON_TAG):
            text = text.removeprefix(PYTHON_TAG)
        self._lead, self._held = self._held[: len(self._held) - len(text)], text
        self._step = self._read_first_key
        return True

    def _read_text(self, parts: list[Part], last: bool) -> bool:
        found = [(place, tag) for tag in self._formats if (place := self._held.find(tag)) >= 0]
        if not found:
            length = len(self._held) if last else _certain_length(self._held, self._formats)
            self._add_text(parts, self._held[:length])
            self._held = self._held[length:]
            return False
        start, tag = min(found)
        text = self._held[:start].rstrip()
        self._add_text(parts, text)
        self._lead, self._held = self._held[len(text) : start] + tag, self._held[start + len(tag) :]
        its = self._formats[tag]
        if its is None:
            self._tagged, self._step = True, self._read_first_key
        else:
            self._format, self._step = its, self._read_whole
        return True

    def _read_whole(self, parts: list[Part], last: bool) -> bool:
        """Calls in a form that is read once its end is there."""
        end = self._format.end
        body, found, rest = self._format.cut(self._held)
        if not (found or last):
            return False
        try:
            calls = self._format.read(body, self._schemas)
            written = [(name, json.dumps(value, ensure_ascii=False)) for name, value in calls or ()]
        except (ValueError, RecursionError):
            written = []
        if not written or not all(name in self._names for name, _ in written):
            return self._leave(parts)
        self._add_calls(parts, written)
        if self._tagged and end == END:
            rest = found + rest
        self._held, self._lead, self._step = rest, "", self._read_end
        return True

    def _read_first_key(self, parts: list[Part], last: bool) -> bool:
        """Of what may be a call."""
        if self._tagged and self._form in ("any", "within"):
            text = self._held.lstrip()
            if text and not last and FUNCTION.begin.startswith(text) and text != FUNCTION.begin:
                return False
            if text.startswith(FUNCTION.begin):
                self._lead, self._held = self._lead + FUNCTION.begin, text.removeprefix(FUNCTION.begin)
                self._format, self._step = FUNCTION, self._read_whole
                return True
            name = re.split(r"[\s<]", text, maxsplit=1)[0]
            if name in self._names or (name and name == text and any(n.startswith(name) for n in self._names)):
                self._format, self._step = GLM, self._read_whole
                return True
        match = _FIRST_KEY.match(self._held)
        if match is None or (match.end() == len(self._held) and not match[2] and not last):
            return False
        if not match[2] or match[1] not in _KEYS:
            return self._leave(parts)
        blanks = len(self._held) - len(self._held.lstrip())
        self._lead, self._held = self._lead + self._held[:blanks], self._held[blanks:]
        self._end, self._scanned, self._step = JsonEnd(), 0, self._read_value
        return True

    def _read_value(self, parts: list[Part], last: bool) -> bool:
        """A head whose arguments can be passed on piece by piece, or calls in another form, once they are whole."""
        named = _NAME.match(self._held)
        name = parsed(named[1]) if named else None
        exact = self._form != "any" and not self._tagged
        if named and (name not in self._names or (exact and named[1] != json.dumps(name))):
            return self._leave(parts)
        head = _HEAD.match(self._held)
        if head:
            parts.append(CallDelta(self._next_index(), id=self._new_id(), name=name))
            self._held, self._lead = self._held[head.end() :], ""
            self._end, self._step = JsonEnd(), self._read_arguments
            return True
        length = self._end.push(self._held[self._scanned :])
        if length is None:
            self._scanned = len(self._held)
            return self._leave(parts) if last else False
        length += self._scanned
        may_call = not exact or self._is_exact_list()
        calls = calls_of(parsed(self._held[:length]), self._names, tagged=self._tagged) if may_call else []
        if not calls:
            self._lead, self._held = self._lead + self._held[:length], self._held[length:]
            return self._leave(parts)
        self._add_calls(parts, calls)
        self._held, self._lead, self._step = self._held[length:], "", self._read_end
        return True

    def _add_calls(self, parts: list[Part], calls: list[tuple[str, str]]) -> None:
        for name, arguments in calls[: None if self._most is None else self._most - self.count]:
            index = self._next_index()
            parts += [CallDelta(index, id=self._new_id(), name=name), CallDelta(index, arguments)]

    def _is_exact_list(self) -> bool:
        head = _HEAD.match(self._held.removeprefix("[").lstrip()) if self._held.startswith("[") else None
        return head is not None and any(head[1] == json.dumps(name) for name in self._names)

    def _read_arguments(self, parts: list[Part], last: bool) -> bool:
        length = self._end.push(self._held)
        arguments = self._held if length is None else self._held[:length]
        parts.append(CallDelta(self.count - 1, arguments))
        self._held = self._held[len(arguments) :]
        if length is not None:
            self._step = self._read_next_key
        return True

    def _read_bare_arguments(self, parts: list[Part], last: bool) -> bool:
        """Those that stand in no object with the name."""
        self._read_arguments(parts, last)
        if self._step == self._read_next_key:
            self._step = self._read_end
        return True

    def _read_next_key(self, parts: list[Part], last: bool) -> bool:
        """What follows the arguments in a call: its end (which may be missing), or a key that nobody asked for."""
        rest = self._held.lstrip()
        if not rest:
            return False
        if rest[0] == ",":
            self._end, self._step = JsonEnd(depth=1), self._skip_keys
        else:
            self._held, self._step = rest.removeprefix("}"), self._read_end
        return True

    def _skip_keys(self, parts: list[Part], last: bool) -> bool:
        length = self._end.push(self._held)
        self._held = "" if length is None else self._held[length:]
        if length is not None:
            self._step = self._read_end
        return True

    def _read_end(self, parts: list[Part], last: bool) -> bool:
        """The tag after a call, or another call."""
        rest = self._held.lstrip(" \t\r\n,;")
        if not rest or (END.startswith(rest) and rest != END and not last):
            return False
        if rest.startswith(END):
            self._held, self._step = rest.removeprefix(END), self._read_text
        elif rest[0] in "{[":
            self._lead, self._held = self._held[: len(self._held) - len(rest)], rest
            self._step = self._read_first_key
        else:
            self._step = self._read_text
        return True

    def _leave(self, parts: list[Part]) -> bool:
        """Go on with text, as what was read is no call."""
        text = self._lead.rstrip()
        self._add_text(parts, text)
        self._held, self._lead = self._lead[len(text) :] + self._held, ""
        self._tagged, self._step = False, self._read_text
        return True

    def _add_text(self, parts: list[Part], text: str) -> None:
        if text.strip() or (text and self._spoke):  # blanks after a call are no text
            parts.append(text)
            self._spoke = True

    def _next_index(self) -> int:
        self.count += 1
        self._spoke = False
        return self.count - 1


def _certain_length(text: str, tags: Collection[str]) -> int:
    """How many characters cannot belong to a tag, nor to blanks before one, whatever follows them."""
    longest = max(map(len, tags))
    held = next((n for n in range(min(len(text), longest), 0, -1) if any(tag.startswith(text[-n:]) for tag in tags)), 0)
    return len(text[: len(text) - held].rstrip())
