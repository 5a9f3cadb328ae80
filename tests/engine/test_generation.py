"""The generation loop, on a fake model whose reply shows every token that is not in its place."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.fakes import FakeProgram, sequence
from tinyllm.engine import generation
from tinyllm.engine.model_runner import ModelRunner
from tinyllm.engine.sequence import Sequence

PROMPTS = ["a", "once upon a time", "x" * 40, "b", "the quick brown fox jumps over the lazy dog " * 3]


def run(sequences: list[Sequence], program: FakeProgram | None = None, on_prefill: Any = None) -> list[str]:
    """Run to the end; the text of each."""
    runner: Any = ModelRunner(program or FakeProgram())  # type: ignore[arg-type]
    texts = [""] * len(sequences)
    for number, piece in generation.generate(runner, sequences, on_prefill):
        texts[number] += piece.text
    return texts


@pytest.fixture
def alone() -> list[str]:
    """What each prompt gives by itself, with everything as large as it can be."""
    return [run([sequence(p, max_tokens=20 + 7 * n)])[0] for n, p in enumerate(PROMPTS)]


def crowd() -> list[Sequence]:
    """The same requests, all together."""
    return [sequence(p, max_tokens=20 + 7 * n) for n, p in enumerate(PROMPTS)]


def test_replies_differ_by_prompt(alone: list[str]) -> None:
    assert len(set(alone)) == len(PROMPTS)
    assert [len(t) for t in alone] == [20 + 7 * n for n in range(len(PROMPTS))]


def test_batch_gives_what_each_gives_alone(alone: list[str]) -> None:
    assert run(crowd()) == alone


@pytest.mark.parametrize("chunk", [5, 7, 39, 64])
def test_chunked_prefill_gives_the_same(alone: list[str], monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(generation, "PREFILL_CHUNK", chunk)
    program = FakeProgram()
    assert run(crowd(), program) == alone
    assert max(program.sizes) <= chunk
    assert len(program.sizes) > 1 + max(20 + 7 * n for n in range(len(PROMPTS))) - len(PROMPTS)


@pytest.mark.parametrize("step", [1, 3, 16])
def test_growing_pages_keep_what_they_hold(alone: list[str], monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(generation, "PAGE_STEP", step)
    assert run(crowd()) == alone


def test_pages_grow_as_tokens_come() -> None:
    runner: Any = ModelRunner(FakeProgram())  # type: ignore[arg-type]
    request = sequence("abc", max_tokens=900)
    sizes = [runner.page_size for _ in generation.generate(runner, [request])]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] <= 1024
    assert len(set(sizes)) < 6


def test_max_tokens_ends_with_length() -> None:
    request = sequence("hello", max_tokens=3)
    assert len(run([request])[0]) == 3
    assert (request.finish_reason, len(request.generated)) == ("length", 3)


def test_context_ends_with_length() -> None:
    request = sequence("hello", limit=9, max_tokens=100)
    run([request])
    assert (request.finish_reason, request.length) == ("length", 9)


def test_stop_token_ends_without_a_trace() -> None:
    request = sequence("hello", max_tokens=100)
    text = run([request], FakeProgram(stop_after=12))[0]
    assert (request.finish_reason, len(text), len(request.generated)) == ("stop", 7, 7)


def test_stop_string_is_found_across_tokens() -> None:
    whole = run([sequence("hello", max_tokens=30)])[0]
    request = sequence("hello", max_tokens=30, stop=whole[10:14])
    assert run([request])[0] == whole[: whole.index(whole[10:14])]
    assert request.finish_reason == "stop"


def test_text_held_back_for_a_stop_string_comes_at_the_end() -> None:
    whole = run([sequence("hello", max_tokens=30)])[0]
    assert run([sequence("hello", max_tokens=30, stop=whole[-2:] + "!")])[0] == whole


def test_finished_sequences_leave_the_batch() -> None:
    program = FakeProgram()
    run([sequence("ab", max_tokens=2), sequence("cd", max_tokens=5)], program)
    assert program.sizes == [4, 2, 1, 1, 1]


def test_prefill_is_reported_up_to_the_whole_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PREFILL_CHUNK", 10)
    told: list[tuple[int, int]] = []
    run([sequence("x" * 25, max_tokens=3)], on_prefill=lambda done, total: told.append((done, total)))
    assert told == [(10, 25), (20, 25), (25, 25)]


def test_prefill_counts_prompt_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PREFILL_CHUNK", 10)
    told: list[tuple[int, int]] = []
    short, long = sequence("abc", max_tokens=9), sequence("x" * 30, max_tokens=1)
    run([short, long], on_prefill=lambda done, total: told.append((done, total)))
    assert told == [
        (10, 33),
        (19, 33),
        (28, 33),
        (33, 33),
    ]  # beside each decode step of the short one, nine of the long prompt


def test_prefill_is_reported_before_the_first_piece() -> None:
    order: list[str] = []
    runner: Any = ModelRunner(FakeProgram())  # type: ignore[arg-type]
    for _, piece in generation.generate(
        runner, [sequence("ab", max_tokens=1)], lambda done, total: order.append("prefill")
    ):
        order.append(piece.text)
    assert order[0] == "prefill" and len(order) == 2


def test_cached_prompt_is_not_computed_again() -> None:
    program = FakeProgram()
    runner: Any = ModelRunner(program)  # type: ignore[arg-type]
    first = sequence("once upon", max_tokens=6)
    list(generation.generate(runner, [first]))
    longer = sequence("once upon a time", max_tokens=6)
    longer.cached = len("once upon")
    program.sizes.clear()
    text = "".join(piece.text for _, piece in generation.generate(runner, [longer]))
    assert program.sizes[0] == len(" a time")
    assert text == run([sequence("once upon a time", max_tokens=6)])[0]


def test_a_step_that_fails_takes_its_pages_with_it() -> None:
    class Broken(FakeProgram):
        def logits(self, tokens: Any) -> Any:
            raise RuntimeError("broken off")

    runner: Any = ModelRunner(Broken())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="broken off"):
        list(generation.generate(runner, [sequence("hello")]))
    assert runner.empty


def test_a_pool_that_cannot_grow_is_given_up() -> None:
    class Full(FakeProgram):
        def grow(self, state: dict[str, Any], pages: int, page_size: int) -> dict[str, Any]:
            state.pop("pages")
            raise MemoryError("no room")

    runner: Any = ModelRunner(Full())  # type: ignore[arg-type]
    with pytest.raises(MemoryError, match="no room"):
        run_on(runner, sequence("hello", max_tokens=600))
    assert runner.empty
    assert run_on(runner, sequence("hello", max_tokens=5)) == run([sequence("hello", max_tokens=5)])[0]


def run_on(runner: Any, request: Sequence) -> str:
    """The text of one request."""
    return "".join(piece.text for _, piece in generation.generate(runner, [request]))


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_sampling_in_a_crowd_is_as_alone(temperature: float) -> None:
    def requests() -> list[Sequence]:
        return [sequence(p, max_tokens=25, temperature=temperature, seed=n) for n, p in enumerate(PROMPTS)]

    assert run(requests()) == [run([r])[0] for r in requests()]
