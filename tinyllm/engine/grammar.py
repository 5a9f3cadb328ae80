"""Structured output: replies that a JSON schema, a regular expression or a list of choices allows. llguidance does the
parsing."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine import json_schema
from tinyllm.errors import InvalidInputError, TinyllmError, UnsupportedError, invalid
from tinyllm.models.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

Mask = NDArray[np.bool_]
WHITESPACE = r" |\n[ \t]{0,24}"
"""Between the parts of JSON: enough for one line, and for indented lines; without a bound a model may write spaces for
ever."""


@dataclass(frozen=True)
class Grammar:
    """What a reply may be. Made by the class methods; `Grammars` compiles it for a model.

    kind: "schema", "regex" or "choice". source: JSON, or the pattern.
    """

    kind: str
    source: str

    @classmethod
    def json_schema(cls, schema: Any) -> Grammar:
        """JSON that a schema (JSON text, or its value) validates; objects have their properties in the schema's order.

        Raises `InvalidInputError` with the place where it is malformed or has a keyword that cannot be enforced.
        """
        text, value = json_schema.parse(schema)
        json_schema.check_schema(value)
        return cls("schema", text)

    @classmethod
    def json_object(cls) -> Grammar:
        """Any JSON object."""
        return cls("schema", '{"type": "object"}')

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        """A text that a regular expression (of Rust's regex crate: no look-around, no back-references; \\d and \\w are
        of ASCII, as in JSON schemas) matches from end to end.
        """
        if not isinstance(pattern, str):
            raise invalid("grammar", "regex", "a regular expression", repr(pattern))
        _valid_unicode("regex", pattern)
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Grammar:
        """One of some texts."""
        if not (isinstance(choices, (list, tuple)) and choices and all(isinstance(c, str) and c for c in choices)):
            raise invalid("grammar", "choice", "a list of texts, none empty", repr(choices))
        for choice in choices:
            _valid_unicode("choice", choice)
        return cls("choice", json.dumps(list(choices)))


class Grammars:
    """Compiles grammars for one tokenizer, and keeps the latest. May be used by several threads.

    Args:
        executor: computes masks while the model runs; None: they are computed when they are asked for.
        most: grammars kept.
    """

    def __init__(self, tokenizer: Tokenizer, executor: Executor | None = None, most: int = 64) -> None:
        self._tokenizer, self._executor, self._most = tokenizer, executor, most
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._vocabulary: _Vocabulary | None = None

    def start(self, grammar: Grammar) -> GrammarState:
        """The state of a reply that is yet to begin.

        Raises:
            InvalidInputError: malformed, too large, or no reply can match it.
            UnsupportedError: llguidance is not installed.
        """
        with self._lock:
            vocabulary = self._vocabulary = self._vocabulary or _Vocabulary(self._tokenizer)
            matcher = self._compiled.pop(grammar, None)
        if matcher is None:
            matcher = _compile(grammar, vocabulary)
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > self._most:
                self._compiled.popitem(last=False)
            return GrammarState(matcher.deep_copy(), vocabulary.size, vocabulary.ends, self._executor)

    def __len__(self) -> int:
        return len(self._compiled)


class GrammarState:
    """How far a reply has come in its grammar. The next mask is computed while the model runs."""

    def __init__(self, matcher: llguidance.LLMatcher, size: int, ends: list[int], executor: Executor | None) -> None:
        self._matcher, self._size, self._ends, self._executor = matcher, size, ends, executor
        self._next: Future[tuple[Mask, bool]] | None = None
        self._now: tuple[Mask, bool] | None = None
        self.finished = False
        """Whether the reply can only end."""
        self._begin()

    def mask(self) -> Mask:
        """Which tokens of text may come next, `[vocabulary]`; none where the reply can only end."""
        return self._state()[0]

    @property
    def may_end(self) -> bool:
        """Whether the reply is whole as it is."""
        return self._state()[1]

    def accept(self, token: int) -> None:
        """A token of text was chosen. Raises `TinyllmError` where the mask has no such token."""
        mask, _ = self._state()
        if not (0 <= token < mask.size and mask[token]) or not self._matcher.consume_token(token):
            raise TinyllmError(f"grammar: token {token} does not continue the reply")
        self.finished = self._matcher.is_stopped() and not self._matcher.is_error()
        self._now = (np.zeros(self._size, np.bool_), True) if self.finished else None
        if not self.finished:
            self._begin()

    def _begin(self) -> None:
        self._next = self._executor.submit(self._compute) if self._executor is not None else None

    def _state(self) -> tuple[Mask, bool]:
        if self._now is None:
            self._now = self._compute() if self._next is None else self._next.result()
            self._next = None
        return self._now

    def _compute(self) -> tuple[Mask, bool]:
        return _mask(self._matcher, self._size, self._ends)


class _Vocabulary:
    """A tokenizer as llguidance sees it: the bytes of each token. Special tokens are no text, so that no string
    contains them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        library = _llguidance()
        self.size = tokenizer.vocab_size
        self.ends = [token for token in tokenizer.eos_token_ids if token < self.size]
        self.tokens = [tokenizer.token_bytes(token) for token in range(self.size)]
        self.special_token_ids, self.strips = [], False
        for token, text in enumerate(self.tokens):
            stream = tokenizer.stream()
            shown = stream.push(token) + stream.finish()
            if text.startswith(b" ") and not shown.startswith(" "):
                self.strips = True  # the text of a reply loses one leading space
            elif text and not shown:
                self.special_token_ids.append(token)
        self.special_token_ids = sorted({*self.special_token_ids, *self.ends})
        self.eos_token_id, self.bos_token_id = (self.ends or [self.size])[0], tokenizer.bos_token_id
        if not self.ends:  # llguidance wants one: an id past the others
            self.tokens.append(b"<end>")
            self.special_token_ids.append(self.size)
        self._encode, special = tokenizer.encode, frozenset(self.special_token_ids)
        self._ids = {text: token for token, text in enumerate(self.tokens) if text and token not in special}
        self._longest = max(map(len, self._ids), default=1)
        self.tokenizer = library.LLTokenizer(library.TokenizerWrapper(self), len(self.tokens), self.ends or [self.size])

    def __call__(self, text: str) -> list[int]:
        """Tokens that spell a text exactly: the tokenizer's where they do (no space before it, no special token), else
        the longest ones."""
        tokens, data = self._encode(text), text.encode()
        if b"".join(self.tokens[token] for token in tokens) == data and not {*tokens} & {*self.special_token_ids}:
            return tokens
        found, at = [], 0
        while at < len(data):
            ends = range(min(len(data), at + self._longest), at, -1)
            end = next((end for end in ends if data[at:end] in self._ids), None)
            if end is None:
                break
            found.append(self._ids[data[at:end]])
            at = end
        return found


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise UnsupportedError("grammar: llguidance is not installed; pip install 'tinyllm[grammar]'") from error
    return llguidance


def _valid_unicode(kind: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid("grammar", kind, "valid Unicode", f"a lone surrogate at character {error.start}") from error


def _mask(matcher: llguidance.LLMatcher, size: int, ends: list[int]) -> tuple[Mask, bool]:
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    if matcher.is_error():
        if matcher.get_error().startswith("NoExtension"):  # what must come next cannot be spelled: no token is allowed
            return np.zeros(size, np.bool_), False
        raise TinyllmError(f"grammar: this reply cannot go on: {_first_line(matcher.get_error())}")
    mask = np.unpackbits(bits, bitorder="little", count=size).view(np.bool_)
    mask[ends] = False
    return mask, matcher.is_accepting()


def _compile(grammar: Grammar, vocabulary: _Vocabulary) -> llguidance.LLMatcher:
    """A matcher before the first token."""
    matcher = _matcher(_lark(grammar), vocabulary)
    reason = matcher.get_error() if matcher.is_error() else "; ".join(matcher.get_grammar_warnings())
    if reason:
        raise _refusal(grammar, vocabulary, reason)
    try:
        mask, may_end = _mask(matcher.deep_copy(), vocabulary.size, vocabulary.ends)
    except TinyllmError:
        mask, may_end = np.zeros(0, np.bool_), False
    if not mask.any() and not may_end:
        raise invalid("grammar", grammar.kind, "one that some text of the vocabulary matches", "one that none does")
    if vocabulary.strips:
        # where a reply may begin with a space, the space that is lost has to be there, otherwise it may be
        spaces = any(mask[token] and vocabulary.tokens[token].startswith(b" ") for token in range(vocabulary.size))
        matcher = _matcher(_lark(grammar, '" "' if spaces else '" "?'), vocabulary)
    return matcher


def _matcher(lark: str, vocabulary: _Vocabulary) -> llguidance.LLMatcher:
    library = _llguidance()
    limits = library.LLParserLimits(verbose_errors=False)
    matcher: llguidance.LLMatcher = library.LLMatcher(
        vocabulary.tokenizer, library.LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits
    )
    return matcher


def _lark(grammar: Grammar, before: str = "") -> str:
    if grammar.kind == "schema":
        schema = json.loads(grammar.source)
        schema = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
        body = "body: %json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}})
    elif grammar.kind == "regex":
        body = f"body: /{_llguidance().regex_to_lark(grammar.source, 'dw')}/"
    else:
        body = "body: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in json.loads(grammar.source))
    return f"start: {before} body\n{body}"


def _refusal(grammar: Grammar, vocabulary: _Vocabulary, reason: str) -> InvalidInputError:
    """Why a grammar could not be compiled, with the place."""
    if grammar.kind == "regex":
        library = (
            _llguidance()
        )  # its message for the pattern as it was given, where \d is not written out, has the place
        given = library.LLMatcher(
            vocabulary.tokenizer, library.LLMatcher.grammar_from_regex(grammar.source), log_level=0
        )
        return invalid(
            "grammar", "regex", "a regular expression", _regex_problem(grammar.source, given.get_error() or reason)
        )
    if grammar.kind == "choice":
        return invalid("grammar", "choice", "texts that can be told apart", _first_line(reason))
    schema, place = json.loads(grammar.source), "schema"
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema} if isinstance(schema, dict) else {}

    def problem(part: Any) -> str:
        text = json.dumps({**part, **shared}) if isinstance(part, dict) else json.dumps(part)
        matcher = _matcher(_lark(Grammar("schema", text)), vocabulary)
        return _first_line(matcher.get_error()) if matcher.is_error() else ""

    wanted, budget = problem(schema), 200
    while budget > 0:  # down to the innermost part with the same problem
        inside = list(json_schema.children(schema, place))[:budget]
        budget -= len(inside)
        found = next((inner for inner in inside if problem(inner[0]) == wanted), None)
        if found is None:
            break
        schema, place = found
    return invalid("grammar", place, "a schema that can be enforced", f"one that cannot: {_first_line(reason)}")


def _regex_problem(pattern: str, reason: str) -> str:
    """What is wrong with a pattern, and where; llguidance writes / as \\/."""
    where = re.search(r"regex parse error:\n    (.*)\n    ( *)\^+\n", reason)
    before = where[1][: len(where[2])].replace("\\/", "/") if where else ""
    return f"{pattern!r}: {_first_line(reason)}{f' at position {len(before)}' if where else ''}"


def _first_line(reason: str) -> str:
    """The part of llguidance's message that says what is wrong."""
    if reason.startswith("panic"):
        return "it is too large"
    message = re.search(r"^error: (.*)$", reason, re.M)
    line = message[1] if message else reason.strip().splitlines()[0]
    return re.sub(r"^(at \d+\(\d+\): |failed to compile JSON schema: |invalid regex .* \(in regex\): )*", "", line)[
        :200
    ]
