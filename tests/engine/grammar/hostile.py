"""Grammars that are small to send and large to compile, and the processes that compile them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tests.engine.grammar.replies import tokenizer
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.limits import GrammarLimits


def intersections(first: int = 0, count: int = 22) -> dict[str, Any]:
    """A kilobyte, of which each pattern makes the work four times as much."""
    patterns = [f".*a.{{{first + number}}}b.*" for number in range(count)]
    return {"allOf": [{"type": "string", "pattern": pattern} for pattern in patterns]}


def alternatives() -> dict[str, Any]:
    """Alternatives that refer to one schema with many properties: each is compared in each."""
    names = [f"p{number}" for number in range(3000)]
    shared = {"type": "object", "properties": {name: {"const": 1} for name in names}, "required": names}
    return {"$defs": {"k": shared}, "oneOf": [{"$ref": "#/$defs/k"}] * 2000}


_OTHERS: set[int] = set()


def leave_out_others() -> None:
    """Servers that live longer than a test module have processes of their own, which `compilers` leaves out."""
    _OTHERS.clear()
    _OTHERS.update(process.pid for process in compilers())


def compilers(children: bool = False) -> list[psutil.Process]:
    """The processes of a test that compile grammars; or their children, one for each grammar."""
    processes = [
        p for p in psutil.Process().children() if p.pid not in _OTHERS and "trial_process" in " ".join(p.cmdline())
    ]
    return [child for p in processes for child in p.children()] if children else processes


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(met)  # as it was seen: a moment later it may be otherwise


ENDLESS = GrammarLimits(seconds=60, memory=1 << 30)


@contextmanager
def trying(limits: GrammarLimits) -> Iterator[Grammars]:
    """Nothing of it may be left behind."""
    grammars = Grammars(tokenizer(), limits=limits)
    try:
        yield grammars
    finally:
        start = time.monotonic()
        grammars.close()
        assert until(lambda: not compilers()) and time.monotonic() - start < 10


def seconds_of(grammars: Grammars, grammar: Grammar) -> float:
    start = time.monotonic()
    assert grammars.start(grammar).mask().any()
    return time.monotonic() - start
