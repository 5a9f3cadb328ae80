"""A private engine, whose cache grows, on a fake model whose reply shows every token that is not in its place."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.bookkeeping import engine_problems
from tests.engine.fakes import FakeProgram, sequence
from tinyllm.engine import private_engine
from tinyllm.engine.engine import Engine
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sequence import Sequence
from tinyllm.errors import TinyllmError

PROMPTS = ["a", "once upon a time", "x" * 40, "b", "the quick brown fox jumps over the lazy dog " * 3]


def for_one(program: FakeProgram | None = None, **settings: Any) -> Engine:
    """An engine with a cache that grows."""
    runner: Any = ModelRunner(program or FakeProgram())  # type: ignore[arg-type]
    return private_engine.engine_for_one(runner, 1000, **settings)


def for_all(program: FakeProgram | None = None, **settings: Any) -> Engine:
    """The same with a page for each of the prompts."""
    return for_one(program, pages=len(PROMPTS), max_running=len(PROMPTS), **settings)


def run(engine: Engine, sequences: list[Sequence], on_prefill: Any = None) -> list[str]:
    """Run to the end; the text of each."""
    texts = [""] * len(sequences)
    for number, piece in private_engine.run(engine, sequences, on_prefill):
        texts[number] += piece.text
        assert engine_problems(engine) == []
    return texts


def reply(engine: Engine, prompt: str, **sampling: Any) -> str:
    """The text of one reply."""
    return run(engine, [sequence(prompt, **sampling)])[0]


def crowd(**sampling: Any) -> list[Sequence]:
    """A request for each prompt, of lengths and seeds of their own."""
    return [sequence(p, max_tokens=20 + 7 * n, seed=n, **sampling) for n, p in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def alone() -> list[str]:
    """What each prompt gives by itself, with everything as large as it can be."""
    return [run(for_one(), [s])[0] for s in crowd()]


def test_replies_differ_by_prompt(alone: list[str]) -> None:
    assert len(set(alone)) == len(PROMPTS)
    assert [len(t) for t in alone] == [20 + 7 * n for n in range(len(PROMPTS))]


@pytest.mark.parametrize("make", [for_one, for_all])
def test_a_crowd_gets_what_each_gets_alone(alone: list[str], make: Any) -> None:
    """One after the other in one page, or together, each in a page of its own."""
    assert run(make(), crowd()) == alone


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_sampling_in_a_crowd_is_as_alone(temperature: float) -> None:
    apart = [run(for_one(), [s])[0] for s in crowd(temperature=temperature)]
    assert run(for_all(), crowd(temperature=temperature)) == apart


@pytest.mark.parametrize("chunk", [5, 7, 39, 64])
def test_chunked_prefill_gives_the_same(alone: list[str], chunk: int) -> None:
    program = FakeProgram()
    assert run(for_all(program, max_step_tokens=chunk), crowd()) == alone
    assert max(program.sizes) <= chunk
    assert len(program.sizes) > 1 + max(len(t) for t in alone)


@pytest.mark.parametrize("chunk", [5, 64])
def test_logits_are_computed_for_the_tokens_that_are_chosen_alone(alone: list[str], chunk: int) -> None:
    """None for a chunk of a prompt that goes on, one for each token of a reply."""
    program = FakeProgram()
    run(for_one(program, max_step_tokens=chunk), crowd())
    assert program.rows.count(0) == sum(-(-len(p) // chunk) - 1 for p in PROMPTS)
    assert sum(program.rows) == sum(map(len, alone)) and max(program.rows) == 1


@pytest.mark.parametrize("unit", [1, 3, 16])
@pytest.mark.parametrize("make", [for_one, for_all])
def test_growing_pages_keep_what_they_hold(alone: list[str], make: Any, unit: int) -> None:
    program = FakeProgram()
    assert run(make(program, page_size=unit), crowd()[:2]) == alone[:2]
    assert program.page_sizes[0] < program.page_sizes[-1]


def test_a_page_grows_as_tokens_come() -> None:
    """Not to the context at once, and in few moves."""
    program = FakeProgram()
    reply(for_one(program), "abc", max_tokens=900)
    sizes = program.page_sizes
    assert sizes == sorted(sizes) and sizes[0] == private_engine.PAGE_TOKENS and len(set(sizes)) < 5
    assert all(size < 2 * (3 + n) + private_engine.PAGE_TOKENS for n, size in enumerate(sizes))


def test_no_pages_are_there_before_they_are_needed() -> None:
    program = FakeProgram()
    engine = for_one(program)
    assert engine.runner.pages == 0
    reply(engine, "a" * 700, max_tokens=3)
    assert set(program.page_sizes) == {768}  # for the whole prompt and reply, before the first of its chunks


def test_the_context_ends_a_reply_with_length() -> None:
    request = sequence("hello", limit=9, max_tokens=100)
    run(for_one(), [request])
    assert (request.finish_reason, request.length) == ("length", 9)


def test_a_stop_token_ends_a_reply_without_a_trace() -> None:
    request = sequence("hello", max_tokens=100)
    text = run(for_one(FakeProgram(stop_after=12)), [request])[0]
    assert (request.finish_reason, len(text), len(request.generated)) == ("stop", 7, 7)


def test_a_stop_string_is_found_across_tokens() -> None:
    whole = reply(for_one(), "hello", max_tokens=30)
    request = sequence("hello", max_tokens=30, stop=whole[10:14])
    assert run(for_one(), [request])[0] == whole[: whole.index(whole[10:14])]
    assert request.finish_reason == "stop"


def test_text_held_back_for_a_stop_string_comes_at_the_end() -> None:
    whole = reply(for_one(), "hello", max_tokens=30)
    assert reply(for_one(), "hello", max_tokens=30, stop=whole[-2:] + "!") == whole


def test_no_page_that_grows_is_left_idle() -> None:
    """As many sequences run together as there are pages: none of them will ever need a second one."""
    program = FakeProgram()
    run(for_all(program), crowd())
    assert program.sizes[0] == sum(map(len, PROMPTS))


def test_finished_sequences_leave_the_batch() -> None:
    program = FakeProgram()
    run(for_all(program), [sequence("ab", max_tokens=2), sequence("cd", max_tokens=5)])
    assert program.sizes == [4, 2, 1, 1, 1]


class Progress(list[tuple[int, int]]):
    """What `on_prefill` was told."""

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))


def test_prefill_is_reported_up_to_the_whole_prompt() -> None:
    progress = Progress()
    run(for_one(max_step_tokens=10), [sequence("x" * 25, max_tokens=3)], progress)
    assert progress == [(10, 25), (20, 25), (25, 25)]


def test_prefill_counts_prompt_tokens_alone() -> None:
    """Beside each decode step of the short one, nine of the long prompt."""
    progress = Progress()
    requests = [sequence("abc", max_tokens=9), sequence("x" * 30, max_tokens=1)]
    run(for_all(max_step_tokens=10), requests, progress)
    assert progress == [(10, 33), (19, 33), (28, 33), (33, 33)]


def test_prefill_is_reported_without_what_is_reused() -> None:
    engine, progress = for_one(max_step_tokens=10), Progress()
    reply(engine, "x" * 25, max_tokens=1)
    run(engine, [sequence("x" * 25 + "y" * 15, max_tokens=3)], progress)
    assert progress == [(10, 15), (15, 15)]


def test_prefill_is_reported_before_the_first_piece() -> None:
    order: list[str] = []
    pieces = private_engine.run(for_one(), [sequence("ab", max_tokens=1)], lambda done, total: order.append("prefill"))
    for _, piece in pieces:
        order.append(piece.text)
    assert order[0] == "prefill" and len(order) == 2


@pytest.mark.parametrize(
    ("prompt", "common"),
    [
        ("once upon a time", 9),  # goes on where the first prompt ended
        ("once upside down", 7),  # leaves it in the middle
        ("once upon", 8),  # is the same: its last token is computed in any case
        ("once", 3),
        ("twice", 0),
    ],
)
def test_a_successor_computes_only_what_is_new(prompt: str, common: int) -> None:
    """To the token, and its reply is the one that it has alone."""
    program = FakeProgram()
    engine = for_one(program)
    reply(engine, "once upon", max_tokens=6)
    program.sizes.clear()
    request = sequence(prompt, max_tokens=6)
    assert engine.reusable(request) == common
    text = run(engine, [request])[0]
    assert program.sizes[0] == len(prompt) - common
    assert text == reply(for_one(), prompt, max_tokens=6)


def test_a_successor_reuses_the_reply_but_for_its_last_token() -> None:
    """That one was chosen, but its keys and values were never computed."""
    engine = for_one()
    text = reply(engine, "once upon", max_tokens=6)
    request = sequence("once upon" + text + " more", max_tokens=6)
    assert engine.reusable(request) == len("once upon" + text) - 1
    assert run(engine, [request]) == [reply(for_one(), "once upon" + text + " more", max_tokens=6)]


def test_of_several_pages_the_one_with_the_longest_prefix_is_taken() -> None:
    engine = for_all()
    run(engine, crowd())
    request = sequence(PROMPTS[4][:60] + "!", max_tokens=9)
    assert engine.reusable(request) == 60
    assert run(engine, [request]) == [reply(for_one(), PROMPTS[4][:60] + "!", max_tokens=9)]
    assert engine.reusable(sequence(PROMPTS[1] + "!")) == len(PROMPTS[1])  # the others are still there


def test_closing_drops_what_is_left_and_keeps_what_was_computed() -> None:
    engine, request = for_one(), sequence("hello", max_tokens=50)
    pieces = private_engine.run(engine, [request])
    said = "".join(next(pieces)[1].text for _ in range(7))
    pieces.close()
    assert not engine.has_work and engine.pool.held == 0 and engine_problems(engine) == []
    assert engine.reusable(sequence("hello" + said + "!")) == len("hello" + said) - 1
    assert reply(engine, "hello" + said + "!", max_tokens=9) == reply(for_one(), "hello" + said + "!", max_tokens=9)


def test_a_page_that_is_just_full_is_taken_over_like_any_other() -> None:
    """It is not found by its key, as a whole page of a fixed size is: it may still grow."""
    engine = for_one(page_size=8)
    pieces = private_engine.run(engine, [sequence("12345678")])
    next(pieces)
    pieces.close()
    assert engine.reusable(sequence("12345678 and 9")) == 8
    assert reply(engine, "12345678 and 9", max_tokens=9) == reply(for_one(), "12345678 and 9", max_tokens=9)
    assert engine.stats.reused_tokens == 8


class Breaking(FakeProgram):
    """Raises `error` in each step, while there is one."""

    error: BaseException | None = None

    def logits(self, tokens: Any) -> Any:
        if self.error is not None:
            raise self.error
        return super().logits(tokens)


def test_a_step_that_fails_takes_the_cache_with_it() -> None:
    """What the kernel raised is raised, and the engine goes on with an empty cache."""
    program = Breaking()
    engine = for_one(program)
    reply(engine, "hello", max_tokens=3)
    program.error = RuntimeError("broken off")
    with pytest.raises(RuntimeError, match="broken off"):
        reply(engine, "hello there")
    program.error = None
    assert not engine.has_work and engine_problems(engine) == []
    assert engine.reusable(sequence("hello there")) == 0
    assert reply(engine, "hello there", max_tokens=5) == reply(for_one(), "hello there", max_tokens=5)


def test_a_sequence_that_fails_leaves_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model was not at fault: its numbers are where they were."""
    engine, request = for_one(), sequence("hello there", max_tokens=5)

    def broken(logits: Any) -> Any:
        raise TinyllmError("no token may come next")

    monkeypatch.setattr(request, "advance", broken)
    with pytest.raises(TinyllmError, match="no token may come next"):
        run(engine, [request])
    assert not engine.has_work and engine.reusable(sequence("hello there!")) == len("hello there")
    assert reply(engine, "hello there!", max_tokens=5) == reply(for_one(), "hello there!", max_tokens=5)


def test_an_interrupted_engine_says_so() -> None:
    """Ctrl-C within a step: nobody may take the engine for one that is done."""
    program = Breaking()
    engine = for_one(program)
    program.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        reply(engine, "hello")
    assert engine.has_work


def test_a_cache_that_cannot_grow_is_given_up() -> None:
    """The next reply begins with a small one."""

    class Full(FakeProgram):
        def grow(self, state: dict[str, Any], pages: int, page_size: int, rows: int = 1) -> dict[str, Any]:
            state.pop("pages")
            raise MemoryError("no room")

    program = Full()
    engine = for_one(program)
    with pytest.raises(MemoryError, match="no room"):
        reply(engine, "hello", max_tokens=600)
    assert reply(engine, "hello", max_tokens=5) == reply(for_one(), "hello", max_tokens=5)
    assert program.page_sizes[-1] == private_engine.PAGE_TOKENS
