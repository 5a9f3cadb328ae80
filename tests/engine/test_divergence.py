"""How far two models are apart on a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.engine.fakes import VOCABULARY, FakeProgram
from tinyllm.engine import divergence as module
from tinyllm.engine.divergence import compare, divergence
from tinyllm.engine.sampling.logprobs import log_sums
from tinyllm.engine.scoring import score, windows

IDS = [int(n) for n in np.random.default_rng(0).integers(1, VOCABULARY, 60)]
WINDOWS = windows(len(IDS), 24, 12)


class Other(FakeProgram):
    """Holds `z` to be likelier than the fake does; more so the longer the text."""

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        logits = super().logits(tokens)
        logits[ord("z")] += len(tokens) / 8
        return logits


def program(kind: type[FakeProgram]) -> Any:
    return kind()


_LOGITS = arrays(np.float64, (2, 3, 7), elements=st.floats(-50, 50))


@given(_LOGITS)
def test_divergence_is_that_of_torch(logits: np.ndarray) -> None:
    """At least 0, and 0 of anything with itself."""
    torch = pytest.importorskip("torch")
    a, b = logits - log_sums(logits)[..., None]
    judge = torch.nn.functional.kl_div(torch.tensor(b), torch.tensor(a), reduction="none", log_target=True).sum(-1)
    found = divergence(a, b)
    np.testing.assert_allclose(found, judge.numpy(), atol=1e-9)
    assert (found >= 0).all() and (divergence(a, a) == 0).all()


def test_impossible_tokens() -> None:
    """One that both rule out counts nothing; one that B alone rules out is infinitely far."""
    half, none = np.log(0.5), -np.inf
    both = np.array([[half, half, none]])
    np.testing.assert_array_equal(divergence(both, both), [0])
    np.testing.assert_array_equal(divergence(both, np.array([[0.0, none, none]])), [np.inf])
    assert np.isclose(divergence(np.array([[0.0, none, none]]), both), -half)


def test_a_model_is_no_way_from_itself() -> None:
    found = compare(program(FakeProgram), program(FakeProgram), VOCABULARY, IDS, WINDOWS, worst=3)
    assert found.divergences.max() == 0 and found.agreement == 1 and found.divergences.shape == (59,)
    np.testing.assert_array_equal(found.a.logprobs, found.b.logprobs)


@pytest.mark.parametrize("block", [2**20, 5 * VOCABULARY, 1])
def test_figures_are_those_of_whole_texts(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of any size: log probabilities as `score` has them, agreement and divergence of each token."""
    monkeypatch.setattr(module, "BLOCK_LOGITS", block)
    found = compare(program(FakeProgram), program(Other), VOCABULARY, IDS, WINDOWS)
    for text, kind in ((found.a, FakeProgram), (found.b, Other)):
        np.testing.assert_allclose(text.logprobs, score(program(kind), VOCABULARY, IDS, WINDOWS).logprobs, atol=1e-6)
    rows = [
        np.array(
            [program(kind).logits(np.array(IDS[window.start : place])) for kind in (FakeProgram, Other)], np.float64
        )
        for window in WINDOWS
        for place in range(window.first, window.end)
    ]
    logprobs = [row - log_sums(row)[:, None] for row in rows]
    np.testing.assert_allclose(found.divergences, [divergence(a[None], b[None])[0] for a, b in logprobs], atol=1e-12)
    assert found.agreement == np.mean([a.argmax() == b.argmax() for a, b in rows]) < 1


def test_the_worst_tokens_are_told_in_order() -> None:
    """Each with its place, and with what both models say of it and would have said."""
    found = compare(program(FakeProgram), program(Other), VOCABULARY, IDS, WINDOWS, worst=4)
    assert [each.divergence for each in found.worst] == sorted(found.divergences, reverse=True)[:4]
    for each in found.worst:
        assert each.token_id == IDS[each.position]
        assert each.logprob_a == found.a.logprobs[each.position]
        assert each.logprob_b == found.b.logprobs[each.position]
        assert each.likeliest_a[1] >= each.logprob_a and each.likeliest_b[1] >= each.logprob_b
    assert found.worst[0].likeliest_b[0] == ord("z")
