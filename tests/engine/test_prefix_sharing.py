"""A prefix that several prompts begin with is read once, also by those that come while it is being read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.bookkeeping import engine_problems
from tests.engine.fakes import FakeProgram, alone, engine, run, sequence
from tinyllm.engine.engine import Engine

PREFIX = "the same beginning of all of them, "
PAGE = 4


def whole(text: str) -> int:
    """Tokens of the whole pages of a text."""
    return len(text) // PAGE * PAGE


@pytest.mark.parametrize("one_at_a_time", [False, True])
@pytest.mark.parametrize("chunk", [8, 512])
def test_prompts_that_come_at_once_share_it(chunk: int, one_at_a_time: bool) -> None:
    """Three prompts in the queue: what they have in common is computed for the first alone, and replies are what they
    are alone."""
    program = FakeProgram()
    tested = engine(program, max_step_tokens=chunk, one_at_a_time=one_at_a_time)
    prompts = {name: PREFIX + name * 3 for name in ("one", "two", "six")}
    for name, prompt in prompts.items():
        tested.add(name, [sequence(prompt, max_tokens=4)])
    texts = dict.fromkeys(prompts, "")
    while tested.has_work:
        for event in tested.step():
            texts[event.request] += event.piece.text if event.piece else ""
    assert texts == {name: alone(prompt, max_tokens=4) for name, prompt in prompts.items()}
    shared = whole(PREFIX) // chunk * chunk if one_at_a_time else whole(PREFIX)  # one at a time: in whole chunks
    assert tested.stats.reused_tokens == 2 * shared
    assert sum(program.sizes) == sum(map(len, prompts.values())) - 2 * shared + 3 * 3
    assert engine_problems(tested) == [] and tested.pool.held == 0


def test_who_waits_for_it_holds_up_nobody() -> None:
    """A prompt behind one that waits is begun beside the reader."""
    tested = engine(max_step_tokens=len(PREFIX) + PAGE)
    for name, prompt in (("reader", PREFIX), ("waits", PREFIX + "too"), ("other", "xyz")):
        tested.add(name, [sequence(prompt, max_tokens=3)])
    assert {e.request for e in tested.step()} == {"reader", "other"}
    assert {e.request for e in tested.step()} == {"reader", "other", "waits"}


def test_when_its_reader_goes_away_the_next_one_reads_it() -> None:
    tested = engine(max_step_tokens=8)
    tested.add("reader", [sequence(PREFIX + "a", max_tokens=3)])
    tested.add("waits", [sequence(PREFIX + "b", max_tokens=3)])
    tested.step()
    assert len(tested.scheduler.waiting) == 1
    tested.cancel("reader")
    text = ""
    while tested.has_work:
        text += "".join(e.piece.text for e in tested.step() if e.piece)
    assert text == alone(PREFIX + "b", max_tokens=3)
    assert tested.stats.reused_tokens == 8


@pytest.mark.parametrize(("one_at_a_time", "tokens"), [(False, [32, 12, 4, 0]), (True, [32, 8, 0, 0])])
def test_what_is_reusable_is_what_is_reused(one_at_a_time: bool, tokens: list[int]) -> None:
    """Whole pages before the last token, one at a time of whole chunks."""
    tested = engine(max_step_tokens=8, one_at_a_time=one_at_a_time)
    run(tested, {"a": (PREFIX + "one", {"max_tokens": 9})})
    for prompt, reusable in zip((PREFIX + "two", PREFIX[:14], PREFIX[:8], "another"), tokens, strict=True):
        before = tested.stats.reused_tokens
        assert tested.reusable(sequence(prompt)) == reusable
        run(tested, {"b": (prompt, {"max_tokens": 1})})
        assert tested.stats.reused_tokens - before == reusable


class Chunked(FakeProgram):
    """What it writes depends on how large the chunk is that it is given, as the last bits of real products do."""

    def __call__(self, inputs: Any, state: Any) -> Any:
        tokens = inputs["tokens"]
        return super().__call__({**inputs, "tokens": tokens + 1000 * len(tokens)}, state)


@pytest.mark.parametrize("chunk", [4, 6, 8])
def test_one_at_a_time_only_pages_of_whole_chunks_are_shared(chunk: int) -> None:
    """The last chunk of a prompt is a smaller one; who goes on from its pages would not have the bits that it has
    alone."""

    def begun() -> Engine:
        return engine(Chunked(), max_step_tokens=chunk, one_at_a_time=True)

    tested = begun()
    for length in (22, 31, 30, 17, 39):
        prompt = (PREFIX * 2)[:length] + "!"
        assert run(tested, {"a": (prompt, {"max_tokens": 4})}) == run(begun(), {"a": (prompt, {"max_tokens": 4})})
    assert tested.stats.reused_tokens > 0
