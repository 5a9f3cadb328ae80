"""A generator of schemas and patterns that ask for more than a reply is worth, and how each must end."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.errors import TinyllmError

SECONDS, LINE, TOKENS, MOST_CHARACTERS = 5, 2000, 60, 4 << 20
COUNTS = [-1, 0, 1, 2, 3, 30, 255, 1000, 65_536, 10**6, 2**31 - 1, 2**31, 2**63, 10**400]
NUMBERS = [*COUNTS, 0.5, 1e-7, 5e-324, 1e300, 1.7e308, -1e22, 123456.789]
_EDGE_COUNTS, _EDGE_NUMBERS = st.sampled_from(COUNTS), st.sampled_from(NUMBERS)
_SIZES = st.sampled_from([1, 2, 3, 20, 300, 5000])
_OTHERS = st.sampled_from([None, True, "", "x" * 5000, "\ud800", "\0", [], [[]], {}, {"a": [1] * 1000}, "é" * 70])
NAMES = st.sampled_from(["a", "b", "", "$ref", "x" * 3000, "a/b~", "\u2028", '"\\'])

_CLASSES = r". \w \W \d \s \S [^a] [a-z] \p{L} \P{Lu} \pN \x{10FFFF} [[:alpha:]] [a&&b] [\w--a] [] [^]"
_OTHER_ATOMS = r"a b é 日 \n ^ $ \b \B / \/ # & ~ < > : \" | () (?:a|b) .* ( ) [ { \ * {2}"
_GROUPS = r"(?i) (?s) (?x) (?-u) (?P<n>a) (?=a) (?<!a) \1 \Z (?i:k)"
_WITH_SPACES = (" ", "\n", "\0", "\U0010ffff", "start: %json {}", "[a-\U0010ffff]")
_ATOMS = st.sampled_from([*f"{_CLASSES} {_OTHER_ATOMS} {_GROUPS}".split(), *_WITH_SPACES])


def _repeated(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bounds = st.tuples(_EDGE_COUNTS, st.one_of(st.just(""), _EDGE_COUNTS))
    suffixes = st.one_of(
        st.sampled_from(["*", "+", "?", "*?", "+?", "??"]),
        _EDGE_COUNTS.map(lambda count: f"{{{count}}}"),
        bounds.map(lambda both: f"{{{both[0]},{both[1]}}}"),
    )
    return st.one_of(
        st.tuples(inner, suffixes).map(lambda parts: f"(?:{parts[0]}){parts[1]}"),
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, _SIZES).map(lambda parts: parts[0] * min(parts[1], 20_000 // max(1, len(parts[0])))),
        st.tuples(inner, _SIZES).map(lambda parts: "(" * parts[1] + parts[0] + ")" * parts[1]),
    )


PATTERNS = st.recursive(_ATOMS, _repeated, max_leaves=8)
"""Regular expressions, most of them well-formed."""

_FORMATS = st.sampled_from(
    ["date-time", "date", "time", "duration", "email", "uuid", "ipv6", "uri", "regex", "unknown"]
)
_TYPES = st.sampled_from(["string", "number", "integer", "object", "array", "null", "boolean", "any"])
_LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "type": st.one_of(_TYPES, st.lists(_TYPES, max_size=9)),
    "enum": st.tuples(st.one_of(NAMES, _EDGE_NUMBERS, _OTHERS), _SIZES).map(
        lambda parts: [parts[0], *range(min(parts[1], 2000))]
    ),
    "const": st.one_of(NAMES, _EDGE_NUMBERS, _OTHERS),
    "required": st.one_of(st.lists(NAMES, max_size=4), _SIZES.map(lambda size: [f"p{n}" for n in range(size)])),
    "pattern": PATTERNS,
    "format": _FORMATS,
    "$ref": st.sampled_from(["#", "#/$defs/k", "#/$defs/l", "#/properties/a", "#/nowhere", "#/" + "a/" * 2000]),
    **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"], _EDGE_COUNTS),
    **dict.fromkeys(
        ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "$comment"], _EDGE_NUMBERS
    ),
    **dict.fromkeys(["uniqueItems", "nullable"], st.booleans()),
}


def _keywords(leaves: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A schema of up to four keywords, one of which may have a value of any kind."""
    right = st.lists(st.sampled_from(leaves), max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: _LEAVES[name] for name in names})
    )
    wrong = st.dictionaries(st.sampled_from([*_LEAVES, "items", "anyOf", "$defs", "unknown"]), _OTHERS, max_size=1)
    return st.one_of(right, right, right, st.tuples(right, wrong).map(lambda both: both[0] | both[1]))


def _nested(key: str, schema: Any, depth: int) -> Any:
    for _ in range(depth):
        schema = {key: [schema]} if key in ("anyOf", "allOf", "prefixItems") else {key: schema}
    return schema


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.one_of(
        st.lists(inner, min_size=1, max_size=4), st.tuples(inner, _SIZES).map(lambda p: [p[0]] * min(p[1], 300))
    )
    named = st.one_of(
        st.dictionaries(NAMES, inner, max_size=4),
        st.tuples(inner, _SIZES).map(lambda p: {f"p{n}": p[0] for n in range(min(p[1], 1000))}),
    )
    with_list = st.tuples(st.sampled_from(["anyOf", "oneOf", "allOf", "prefixItems"]), several)
    with_one = st.tuples(st.sampled_from(["items", "not", "additionalProperties", "propertyNames"]), inner)
    with_names = st.tuples(
        st.sampled_from(["properties", "$defs"]), st.one_of(named, st.dictionaries(st.just("a"), inner))
    )
    patterned = st.dictionaries(PATTERNS, inner, max_size=3).map(lambda found: ("patternProperties", found))
    containers = st.one_of(with_list, with_one, with_names, patterned).map(lambda pair: dict([pair]))
    return st.one_of(
        st.tuples(containers, _keywords([*_LEAVES])).map(lambda both: both[1] | both[0]),
        st.tuples(containers, containers).map(lambda both: both[1] | both[0]),
        st.tuples(st.sampled_from(["anyOf", "allOf", "items", "not", "prefixItems"]), inner, _SIZES).map(
            lambda p: _nested(p[0], p[1], min(p[2], 300))
        ),
    )


def _fits(schema: Any) -> bool:
    """Whether it is no larger than a request may be; most that are too large are never written out."""
    length = 0
    for part in json.JSONEncoder().iterencode(schema):
        length += len(part)
        if length > MOST_CHARACTERS:
            return False
    return True


SCHEMAS = (
    st.tuples(
        st.recursive(_keywords([*_LEAVES]), _larger, max_leaves=8),
        st.dictionaries(st.sampled_from("kl"), _keywords([*_LEAVES])),
    )
    .map(lambda both: {"$defs": both[1], **both[0]})
    .filter(_fits)
)
"""Schemas with all keywords that can be enforced, a few that cannot, and values that make the most of them."""


def survive_grammar(grammars: Grammars, schema_or_pattern: Any, seed: int = 0) -> str:
    """Compile a grammar as the server does, and write the beginning of a reply under it; the error that ended it."""
    began, message = time.process_time(), ""
    random = np.random.default_rng(seed)
    try:
        if isinstance(schema_or_pattern, str):
            grammar = Grammar.regex(schema_or_pattern)
        else:
            grammar = Grammar.json_schema(schema_or_pattern, check=False)
        state = grammars.begin(grammars.compile(grammar).result(300))
        for _ in range(TOKENS):
            allowed = np.flatnonzero(state.mask())
            if state.finished or not allowed.size:
                break
            state.accept(int(random.choice(allowed)))
    except TinyllmError as error:
        message = str(error)
    took = time.process_time() - began
    assert took < SECONDS, f"{took} s: {json.dumps(schema_or_pattern)[:3000]}"
    assert len(message) < LINE and "\n" not in message, message
    return message
