"""Grammars of strangers: what compiling them costs is bounded, and ends when nobody waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import psutil
import pytest

from tests.engine.grammar.hostile import alternatives, compilers, intersections, seconds_of, trying, until
from tests.engine.grammar.replies import accepts, tokenizer
from tinyllm.engine.grammar.compile import GrammarRefusedError
from tinyllm.engine.grammar.grammar import Grammar
from tinyllm.engine.grammar.grammars import Grammars
from tinyllm.engine.grammar.limits import GrammarLimits
from tinyllm.engine.grammar.matcher_cache import CompiledGrammar, MatcherCache

pytest.importorskip("llguidance")
pytestmark = pytest.mark.usefixtures("only_own_compilers")


@pytest.fixture(scope="module")
def tried() -> Iterator[Grammars]:
    with trying(GrammarLimits(seconds=0.4, memory=64 << 20, patience=1000)) as grammars:
        yield grammars


SMALL = [
    Grammar.json_object(),
    Grammar.regex(r"\d{4}-\d\d"),
    Grammar.choice(["yes", "no"]),
    Grammar.calls({"f": Grammar.arguments({"properties": {"a": {"enum": [1, 2]}}})}, True),
]


@pytest.mark.parametrize("grammar", SMALL, ids=lambda grammar: grammar.kind)
def test_what_passes_is_what_is_compiled_at_once(tried: Grammars, grammar: Grammar) -> None:
    states = [grammars.start(grammar) for grammars in (tried, Grammars(tokenizer()))]
    for _ in range(12):
        masks = [state.mask() for state in states]
        assert np.array_equal(*masks) and states[0].may_end == states[1].may_end
        if not masks[0].any():
            break
        for state in states:
            state.accept(int(np.flatnonzero(masks[0])[-1]))


def test_a_grammar_that_was_tried_is_kept(tried: Grammars) -> None:
    first = tried.compile(Grammar.regex("kept")).result(5)
    asked = tried.compile(Grammar.regex("kept"))
    assert asked.done() and asked.result() is first


@pytest.mark.parametrize(
    ("grammar", "bound"),
    [
        (Grammar.json_schema(intersections(), check=False), "64 MiB of memory|0.4 s of processor time"),
        (Grammar.json_schema(intersections(count=11), check=False), "0.4 s of processor time|can be enforced"),
        (Grammar.json_schema(alternatives(), check=False), "schema: .* 64 MiB of memory|0.4 s of processor time"),
        (Grammar.regex("a{1000000}"), "regex: .* within 64 MiB of memory"),
        (Grammar.regex("(" * 100_000), "regex: expected"),
        (Grammar.choice([f"{n} {'x' * 600}" for n in range(1000)]), "choice: expected at most 524288 characters"),
    ],
)
def test_what_costs_too_much_is_refused_and_holds_nobody_up(tried: Grammars, grammar: Grammar, bound: str) -> None:
    seconds_of(tried, Grammar.choice(["the process runs"]))
    held = psutil.Process().memory_info().rss
    start = time.monotonic()
    asked = tried.compile(grammar)
    assert time.monotonic() - start < 1
    assert seconds_of(tried, Grammar.choice([f"another {time.monotonic()}"])) < 10
    with pytest.raises(GrammarRefusedError, match=bound) as caught:
        asked.result(60)
    assert caught.value.grammar is grammar and len(str(caught.value)) < 400
    assert psutil.Process().memory_info().rss - held < 100 << 20 and until(lambda: not compilers(children=True))


def test_the_guilty_part_is_told(tried: Grammars) -> None:
    parts = [Grammar.json_object(), Grammar.arguments({"$ref": "#/nowhere"}, check=False)]
    whole = Grammar.calls({"a": parts[0], "b": parts[1]}, False)
    with pytest.raises(GrammarRefusedError) as caught:
        tried.compile(whole, parts).result(5)
    assert caught.value.grammar is parts[1]


def test_after_a_fork_grammars_are_compiled_in_a_process_of_the_child_s_own(tried: Grammars) -> None:
    tried.start(Grammar.choice(["before"]))
    pid = os.fork()
    if pid == 0:
        passed = False
        try:
            passed = accepts(tried, Grammar.choice(["after"]), "after")
            tried._trials.close()
        finally:
            os._exit(0 if passed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert seconds_of(tried, Grammar.choice(["the parent's goes on"])) < 10


def test_the_process_is_small_and_can_fork(tried: Grammars) -> None:
    """It loads no array library but numpy, and has one thread, as a child has no other."""
    code = (
        "import sys, tinyllm.engine.grammar.trial_process; print(*{'torch', 'mlx', 'jax', 'fastapi'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "\n"
    tried.start(Grammar.choice(["it runs"]))
    (process,) = compilers()
    assert process.num_threads() == 1 and process.memory_info().rss < 150 << 20


def cached(cache: MatcherCache[str], key: str, size: int) -> bool:
    if not cache.make_room(size):
        return False
    fake: Any = None
    cache.put(key, CompiledGrammar(fake, size))
    return True


def test_the_cache_is_bounded_by_what_its_grammars_take() -> None:
    cache: MatcherCache[str] = MatcherCache(3, 100)
    assert cached(cache, "a", 40) and cached(cache, "b", 40) and cache.held == 80
    assert cache.get("a") is not None and cached(cache, "c", 60)  # b goes, as a was used since
    assert cache.get("b") is None and cache.get("a") is not None and cache.held == 100
    used = cache.get("c")
    assert not cached(cache, "d", 50), "c is in use, also once it is not kept"
    assert cache.held == 60 and len(cache) == 0
    del used
    assert cache.held == 0 and cached(cache, "d", 100)
    for key in "efgh":
        assert cached(cache, key, 0)
    assert len(cache) == 3 and cache.held == 0


class Later(Executor):
    """Does what it is given when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append(lambda: future.set_result(function(*arguments, **named)))
        return future


def test_a_mask_that_takes_long_is_computed_apart_and_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyllm.engine.grammar.state._SLOW", -1.0)
    quick, slow = Later(), Later()
    state = Grammars(tokenizer(), quick, slow_executor=slow).start(Grammar.regex("aaa"))
    assert len(quick.jobs) == 1 and not slow.jobs and not state.late
    quick.jobs.pop()()
    state.accept(ord("a"))
    assert len(slow.jobs) == 1 and not quick.jobs and state.late
    slow.jobs.pop()()
    assert not state.late and state.mask()[ord("a")]


def test_what_was_slow_to_compile_is_taken_to_be_slow_in_a_reply(tried: Grammars) -> None:
    assert tried.compile(Grammar.regex("a{30000}")).result(60).slow
    assert not tried.compile(Grammar.choice(["small"])).result(60).slow
