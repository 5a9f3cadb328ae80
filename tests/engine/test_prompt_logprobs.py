"""Log probabilities of a prompt: those of its logits, however the prompt is cut, cached or computed anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.fakes import FakeProgram, engine, sequence
from tinyllm.engine.completion import completion
from tinyllm.engine.engine import Engine
from tinyllm.engine.sampling.logprobs import log_probability
from tinyllm.engine.sequence import Piece

PROMPT = "a prompt that has more tokens than pages"


def expected(prompt: str) -> list[float]:
    """The log probability of each token after the first, from the logits of what is before it."""
    ids = [ord(c) for c in prompt]
    rows = [FakeProgram().logits(np.array(ids[:place])) for place in range(1, len(ids))]
    shifted = [(row - row.max()).astype(np.float64) for row in rows]
    return [float(row[t] - np.log(np.exp(row).sum())) for row, t in zip(shifted, ids[1:], strict=True)]


def pieces(tested: Engine, prompts: list[str], **sampling: Any) -> list[list[Piece]]:
    """Those of sequences that run together, with their log probabilities, beside whatever runs already."""
    settings = {"max_tokens": 3, "prompt_logprobs": 2} | sampling
    for number, prompt in enumerate(prompts):
        tested.add(str(number), [sequence(prompt, **settings)])
    events = [event for _ in range(500) for event in tested.step()]
    assert not tested.has_work and all(event.error is None for event in events)
    return [[e.piece for e in events if e.request == str(n) and e.piece is not None] for n in range(len(prompts))]


def told(reply: list[Piece]) -> list[float]:
    """All of a prompt. They come once, beside the first piece; the first token has none."""
    assert not any(piece.prompt_logprobs for piece in reply[1:])
    first, *rest = reply[0].prompt_logprobs
    assert first is None
    return [entry.logprob for entry in rest if entry is not None]


@pytest.mark.parametrize(
    "cache",
    [
        {},
        {"max_step_tokens": 1},
        {"max_step_tokens": 7},
        {"max_step_tokens": 5, "page_size": 3},
        {"max_step_tokens": 8, "one_at_a_time": True},
        {"pages": 1, "largest_page": 200, "max_running": 1},
    ],
)
def test_every_cut_gives_those_of_the_logits(cache: dict[str, Any]) -> None:
    """The second time as well, though the cache has the prompt by then, and beside others that ask for none."""
    tested = engine(**cache)
    for _ in range(2):
        (reply,) = pieces(tested, [PROMPT])
        assert told(reply) == pytest.approx(expected(PROMPT), abs=1e-5)
    (plain,) = pieces(tested, [PROMPT], prompt_logprobs=None)
    assert [p.text for p in plain] == [p.text for p in reply] and not plain[0].prompt_logprobs


def test_no_step_computes_more_rows_than_it_may() -> None:
    """So memory is bounded, whatever the prompts' length and number."""
    program = FakeProgram()
    tested = engine(program, pages=200, max_step_tokens=64)
    tested.scheduler.max_prompt_rows = 6
    prompts = [PROMPT, PROMPT[::-1], PROMPT[5:]]
    for prompt, reply in zip(prompts, pieces(tested, prompts), strict=True):
        assert told(reply) == pytest.approx(expected(prompt), abs=1e-5)
    assert max(program.rows) <= 6 + len(prompts)


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_a_prompt_that_is_computed_anew_tells_each_once(broken: int) -> None:
    """After a step that took the pages with it, and after others took its pages."""

    together = iter(range(100))

    class Breaking(FakeProgram):
        def __call__(self, inputs: Any, state: Any) -> Any:
            if len(inputs["kv_len"]) > 1 and next(together) == broken:
                state.clear()
                raise RuntimeError("once")
            return super().__call__(inputs, state)

    tested = engine(Breaking(), pages=24, max_step_tokens=9)
    prompts = [PROMPT, PROMPT[3:] + "?"]
    for prompt, reply in zip(prompts, pieces(tested, prompts, max_tokens=12), strict=True):
        assert told(reply) == pytest.approx(expected(prompt), abs=1e-5)
        assert sum(len(piece.token_ids) for piece in reply) == 12
    assert next(together) > broken and tested.stats.preemptions


def test_a_prompt_of_one_token_has_none() -> None:
    (reply,) = pieces(engine(), ["a"])
    assert told(reply) == [] and reply[0].prompt_logprobs == (None,)


def test_a_reply_of_no_tokens_tells_of_the_prompt() -> None:
    ((only,),) = pieces(engine(), [PROMPT], max_tokens=0)
    assert told([only]) == pytest.approx(expected(PROMPT), abs=1e-5)
    assert (only.text, only.token_ids, only.finish_reason) == ("", (), "length")


def test_ranks_and_alternatives_are_those_of_the_row() -> None:
    request = sequence(PROMPT, prompt_logprobs=3, max_tokens=1)
    tested = engine()
    tested.add("a", [request])
    reply = [event.piece for _ in range(20) for event in tested.step() if event.piece]
    entries = completion(request, reply).prompt_logprobs or []
    assert len(entries) == len(PROMPT)
    for place, entry in enumerate(entries[1:], 1):
        row = FakeProgram().logits(np.array(request.prompt[:place]))
        likeliest = np.argsort(-row, kind="stable")
        assert entry is not None and [token for token, _ in entry.top] == likeliest[:3].tolist()
        assert likeliest[entry.rank - 1] == entry.token_id == request.prompt[place]


def test_a_row_that_is_not_finite_ends_the_request() -> None:
    class Broken(FakeProgram):
        def logits(self, tokens: np.ndarray) -> np.ndarray:
            return np.full_like(super().logits(tokens), np.nan if len(tokens) == 5 else 0)

    tested = engine(Broken())
    tested.add("a", [sequence(PROMPT, prompt_logprobs=0)])
    (event,) = [event for _ in range(3) if tested.has_work for event in tested.step()]
    assert "position 5: expected finite logits" in str(event.error)


def test_the_log_probability_of_an_equal_logit_has_the_best_rank() -> None:
    assert log_probability(np.zeros(4, np.float32), 3, 0).rank == 1


def test_many_prompts_beside_it_leave_a_prompt_its_turn() -> None:
    """Those that end in a step take up its rows; a part without tokens is never made."""
    program = FakeProgram()
    tested = engine(program, pages=200, max_step_tokens=64, max_running=32)
    tested.scheduler.max_prompt_rows = 3
    tested.add("plain", [sequence("ab", max_tokens=2) for _ in range(6)])
    (reply,) = pieces(tested, [PROMPT])
    assert told(reply) == pytest.approx(expected(PROMPT), abs=1e-5)
