"""Which regular expressions of tokenizers take a time that is linear in any text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import tokenizers

from tinyllm.models.text.pre_tokenizers import PRE_TOKENIZERS

_BLANKS = r"\s+(?!\S)|\s+"
_WRITTEN_OTHERWISE = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _BLANKS,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _BLANKS,
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|" + _BLANKS,
    r"[^\S\r\n]*+[\r\n]++|" + _BLANKS,
    _BLANKS,
)
"""As `tokenizer.json` files have what GGUF files have a name for."""
_SQUARE = ("(?=(", r"\s+$")
"""What looks ahead, or fails, over all of a run at each of its characters."""
_LONGEST_SIMPLE = 1000
_ITEM = re.compile(
    r"(?P<bar>\|)|(?:\\[pP]\{\^?\w{1,40}\}|\\[^\w\s]|\\[dDsSwWnrt]|[^\\\[\](){}*+?|.^$]|\."
    r"|\[\^?(?:[^\\\[\]&]|\\[pP]\{\^?\w{1,40}\}|\\[^\w\s]|\\[dDsSwWnrt])+\])(?P<times>(?:[?*+]|\{\d{1,2}(?:,\d{0,2})?\})?)",
    re.ASCII,
)


def patterns_of(backend: tokenizers.Tokenizer) -> list[str]:
    """The regular expressions that a tokenizer's file has for cutting and normalizing a text."""
    parts = [part.__getstate__() for part in (backend.normalizer, backend.pre_tokenizer) if part]
    return [pattern for part in parts if b'"Regex"' in part for pattern in _found(json.loads(part))]


def are_quick(pattern: str) -> bool:
    """Whether a pattern is one of known models whose time is linear in a text, or so simple that it has to be."""
    return pattern in _known() or _is_simple(pattern)


@cache
def _known() -> frozenset[str]:
    cuts = {cut for made in PRE_TOKENIZERS.values() for cut in (*made.cuts, *made.byte_cuts)}
    return frozenset(cut for cut in cuts if not any(part in cut for part in _SQUARE)) | {*_WRITTEN_OTHERWISE}


def _is_simple(pattern: str) -> bool:
    """Whether it has alternatives of single characters alone, of which the last of each may be repeated and the first
    left out: no match fails after it went on for long, so that nothing is read twice."""
    at = place = 0
    ended = False
    while at < len(pattern) <= _LONGEST_SIMPLE:
        item = _ITEM.match(pattern, at)
        if item is None:
            return False
        at = item.end()
        if item["bar"]:
            place, ended = 0, False
            continue
        if ended:
            return False
        ended = bool(item["times"]) and not (item["times"] == "?" and place == 0)
        place += 1
    return len(pattern) <= _LONGEST_SIMPLE


def _found(state: Any) -> Iterator[str]:
    """Every value of a key `Regex`, wherever it stands."""
    waiting = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("Regex"), str):
                yield value["Regex"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
