"""Log probabilities of a text: windows, steps of bounded memory, and what transformers makes of the same windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalogue.harness import registry
from tests.cli.fake_model import fake_llm
from tests.engine.fakes import VOCABULARY, FakeProgram
from tests.llm.families.harness import PROMPT, Tiny, wanted_logits
from tinyllm.engine import scoring
from tinyllm.engine.scoring import TextLogprobs, change, score, settled_windows, windows
from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.llm import LLM, load


@given(st.integers(2, 300), st.integers(2, 60), st.data())
def test_each_token_is_scored_once(tokens: int, context: int, data: st.DataObject) -> None:
    """In the first window that has one before it: all but the first of the text, and where windows do not overlap the
    first of each. A token that is scored late has at least `context - stride` before it."""
    stride = data.draw(st.integers(1, context))
    found = windows(tokens, context, stride)
    scored = [token for window in found for token in range(window.first, window.end)]
    begin = set(range(0, tokens, stride)) if stride == context else {0}
    assert scored == [token for token in range(tokens) if token not in begin]
    assert found[-1].end == tokens or tokens - 1 in begin
    for window in found:
        assert window.start % stride == 0 and window.start < window.first < window.end <= window.start + context
        assert window.start == 0 or window.first - window.start >= max(1, context - stride)


def test_steps_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tokens and of logits; the fake's logits depend on all tokens of the window, so that none is in a wrong
    place."""
    ids = [int(n) for n in np.random.default_rng(0).integers(1, VOCABULARY, 100)]
    program: Any = FakeProgram()
    settled = settled_windows("x", len(ids), 400, 40, 15)
    whole = score(program, VOCABULARY, ids, settled)
    monkeypatch.setattr(scoring, "STEP_LOGITS", 7 * VOCABULARY)
    small: Any = FakeProgram()
    done: list[tuple[int, int]] = []
    found = score(small, VOCABULARY, ids, settled, lambda *step: done.append(step))
    np.testing.assert_array_equal(found.logprobs, whole.logprobs)
    assert max(small.sizes) == 7 < max(program.sizes) and max(small.rows) <= 7
    assert sum(small.rows) == found.scored == 99, "no logits are computed that nobody asks for"
    assert done[-1] == (100, 100) and done == sorted(done)
    for place in (1, 14, 40, 41, 99):
        window = next(w for w in settled if w.first <= place < w.end)
        logits = program.logits(np.array(ids[window.start : place])).astype(np.float64)
        wanted = logits[ids[place]] - np.log(np.exp(logits).sum())
        assert found.logprobs[place] == pytest.approx(wanted, abs=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[LLM, Any]:
    """A model with recurrent states, whose windows must not go on with those of the window before; and transformers'
    model of it."""
    folder = tmp_path_factory.mktemp("models")
    kinds = ["conv", "full_attention", "conv"]
    judge = Tiny("Lfm2", {"layer_types": kinds, "block_multiple_of": 8}).save(folder)
    return load(folder, "numpy", registry=registry()), judge


def judged(judge: Any, ids: list[int], context: int, stride: int) -> list[float]:
    """As transformers' guide goes through a text, with each token counted once: log probabilities."""
    found, end_before = list[float](), 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        logits = wanted_logits(judge, ids[begin:end]).astype(np.float64)
        for place in range(max(begin + 1, end_before), end):
            row = logits[place - begin - 1]
            found.append(row[ids[place]] - np.log(np.exp(row - row.max()).sum()) - row.max())
        end_before = end
        if end == len(ids):
            break
    return found


@pytest.mark.parametrize(("context", "stride"), [(32, 16), (32, 32), (64, 5), (200, 200)])
def test_windows_are_those_of_transformers(context: int, stride: int, tiny: tuple[LLM, Any]) -> None:
    llm, judge = tiny
    found, wanted = llm.logprobs(PROMPT, context, stride), judged(judge, PROMPT, context, stride)
    np.testing.assert_allclose(found.logprobs[~np.isnan(found.logprobs)], wanted, atol=1e-3)
    assert found.perplexity == pytest.approx(math.exp(-sum(wanted) / len(wanted)), rel=1e-4)
    deviation = np.std(wanted, ddof=1) / math.sqrt(len(wanted))
    assert found.standard_error == pytest.approx(found.perplexity * deviation, rel=1e-3)


def test_windows_that_do_not_overlap_are_texts_of_their_own(tiny: tuple[LLM, Any]) -> None:
    llm, _ = tiny
    found = llm.logprobs(PROMPT, 30, 30)
    apart = [llm.logprobs(PROMPT[start : start + 30]).logprobs for start in range(0, len(PROMPT), 30)]
    np.testing.assert_array_equal(found.logprobs, np.concatenate(apart))


def test_one_window_is_what_the_engine_says_of_a_prompt() -> None:
    reply = fake_llm().generate(PROMPT, max_tokens=0, prompt_logprobs=0)
    assert reply.prompt_logprobs is not None and reply.prompt_logprobs[0] is None
    told = [each.logprob for each in reply.prompt_logprobs if each is not None]
    np.testing.assert_array_equal(fake_llm().logprobs(PROMPT).logprobs[1:], told)


def test_a_change_counts_the_same_tokens() -> None:
    """Two models that differ by the same at each token differ for sure."""
    before = TextLogprobs([1, 2, 3, 4], np.array([np.nan, -1.0, -2.0, -6.0]))
    after = TextLogprobs([1, 2, 3, 4], before.logprobs - 0.1)
    changed = change(before, after)
    assert changed.share == pytest.approx(math.exp(0.1) - 1) and changed.error == pytest.approx(0, abs=1e-12)
    assert before.standard_error > 1 and math.isnan(TextLogprobs([1, 2], np.array([np.nan, -1.0])).standard_error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([7],), "text: expected at least 2 tokens, got 1"),
        ((PROMPT, 1), "context: expected 2 to 256 tokens"),
        ((PROMPT, 257), "context: expected 2 to 256 tokens"),
        ((PROMPT, 32, 0), "stride: expected 1 to 32 tokens"),
        ((PROMPT, 32, 33), "stride: expected 1 to 32 tokens"),
        (([1, 97],), "token id"),
        (([],), "at least one token"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments: Any, message: str, tiny: tuple[LLM, Any]) -> None:
    with pytest.raises(InvalidInputError, match=message):
        tiny[0].logprobs(*arguments)


def test_logits_that_are_not_finite_are_an_error() -> None:
    class Broken(FakeProgram):
        def logits(self, tokens: np.ndarray) -> np.ndarray:
            return super().logits(tokens) if len(tokens) < 5 else np.full(VOCABULARY, np.nan, np.float32)

    program: Any = Broken()
    with pytest.raises(TinyllmError, match="position 5: expected finite logits, got nan"):
        score(program, VOCABULARY, list(range(9)), windows(9, 9, 9))
