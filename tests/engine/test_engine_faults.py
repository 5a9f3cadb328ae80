"""What goes wrong in the middle of things: it ends the request that it is due to, and the engine goes on; and what is
counted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.bookkeeping import engine_problems
from tests.engine.fakes import PAGE, Failing, alone, engine, run, sequence
from tinyllm.engine import sequence as sequences
from tinyllm.engine.engine import StepError


def test_a_failure_in_a_later_chunk_is_found_while_others_go_on() -> None:
    """The first chunk of its prompt is fine, so it stays under suspicion until all that it brought has run."""
    tested = engine(Failing(), max_step_tokens=16)
    good = sequence("ab", max_tokens=60)
    tested.add("good", [good])
    tested.add("bad", [sequence("x" * 40 + "!")])
    events = []
    while tested.has_work and len(good.generated) < 60:
        events += tested.step()
        assert engine_problems(tested) == []
        assert tested.stats.steps < 200
    ((request, error),) = [(e.request, e.error) for e in events if e.error]
    assert request == "bad" and isinstance(error, StepError) and len(good.generated) == 60
    first = next(n for n, e in enumerate(events) if e.error)
    assert sum(e.request == "good" for e in events[first:]) > 40
    assert "".join(e.piece.text for e in events if e.piece) == alone("ab", max_tokens=60)


@pytest.mark.parametrize("calls", range(1, 6))
def test_ranks_stand_still_while_a_step_is_made_up(calls: int) -> None:
    """Ageing turns two around at the very moment when one takes a page of the other: who is in the step keeps its
    pages."""
    tested = engine(pages=11)
    prompts = {"late": "abcdef", "early": "ghijklm"}
    texts = dict.fromkeys(prompts, "")
    tested.add("late", [sequence(prompts["late"], max_tokens=30)], priority=1)
    tested.scheduler.clock = lambda: 1.0
    tested.add("early", [sequence(prompts["early"], max_tokens=30)], priority=0)
    left = 0

    def clock() -> float:
        nonlocal left
        left -= 1
        return 9.99 if left >= 0 else 10.01

    tested.scheduler.clock = clock
    while tested.has_work:
        left = calls
        for event in tested.step():
            texts[event.request] += event.piece.text if event.piece else ""
        assert engine_problems(tested) == []
        assert tested.stats.steps < 500
    assert tested.stats.preemptions and texts == {
        name: alone(prompt, max_tokens=30) for name, prompt in prompts.items()
    }


def test_what_a_library_raises_while_a_token_is_chosen_ends_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    tested, bad = engine(), sequence("cd", max_tokens=5)
    tested.add("good", [sequence("ab", max_tokens=5)])
    tested.add("bad", [bad])

    def broken(logits: Any) -> Any:
        raise RuntimeError("a matcher's own mistake")

    monkeypatch.setattr(bad, "advance", broken)
    events = [e for _ in range(6) for e in tested.step()]
    assert [(e.request, str(e.error)) for e in events if e.error] == [("bad", "a matcher's own mistake")]
    assert "".join(e.piece.text for e in events if e.piece) == alone("ab", max_tokens=5)
    assert engine_problems(tested) == [] and tested.pool.held == 0


def test_keys_are_made_once_a_page_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that ends within a page does not look at all tokens of a long reply again."""
    made, page_keys = [], sequences.page_keys

    def counted(*given: Any) -> Any:
        made.append(len(given[0]))
        return page_keys(*given)

    monkeypatch.setattr(sequences, "page_keys", counted)
    run(engine(), {"a": ("ab", {"max_tokens": 41})})
    assert made == list(range(PAGE, 41 + 2, PAGE))


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_every_prompt_token_is_counted_once(one_at_a_time: bool) -> None:
    """Computed or found, also where a chunk has a single one; what was generated is not among them."""
    tested = engine(max_step_tokens=8, one_at_a_time=one_at_a_time)
    for prompt in ("a", "x" * 9, "x" * 9):
        run(tested, {"a": (prompt, {"max_tokens": 5})})
    assert tested.stats.reused_tokens == 8 and tested.stats.prompt_tokens == 1 + 9 + 1
