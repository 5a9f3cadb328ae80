"""The load: what a seed fixes, and what the numbers promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tinyllm.bench.serve_plan import WORDS, Load, plan, warm_up
from tinyllm.errors import InvalidInputError

LOAD = Load(requests=2000, rate=50.0, prompt_tokens=20, max_tokens=40, seed=3)


def test_a_seed_fixes_everything() -> None:
    """Prompts, lengths and arrivals, to the last bit; another seed changes each of them."""
    mixed = replace(LOAD, mixed_lengths=True, shared_prefix=5)
    assert list(plan(mixed)) == list(plan(mixed))
    for one, other in list(zip(plan(mixed), plan(replace(mixed, seed=4)), strict=True))[1:50]:
        assert one.prompt != other.prompt and one.at != other.at


def test_arrivals_are_a_poisson_process() -> None:
    """Gaps with the mean and the standard deviation of an exponential, in no order; the first request comes at once."""
    at = [p.at for p in plan(LOAD) if p.at is not None]
    gaps = np.diff(at)
    assert at[0] == 0.0 and len(at) == 2000 and (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.1) and gaps.std() == pytest.approx(1 / 50, rel=0.15)
    assert np.mean(gaps > 1 / 50) == pytest.approx(np.exp(-1), abs=0.04)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.08


def test_another_rate_sends_the_same_prompts() -> None:
    """Twice as fast is the same in half the time, and a closed loop sends the same as well."""
    fast, closed = plan(replace(LOAD, rate=100.0)), plan(replace(LOAD, rate=None, concurrency=4))
    for slow, quick, loop in zip(plan(LOAD), fast, closed, strict=True):
        assert slow.prompt == quick.prompt == loop.prompt and loop.at is None
        assert quick.at == pytest.approx((slow.at or 0.0) / 2)


def test_lengths() -> None:
    """As many words as tokens were asked for, the prefix on top, the same for all; what is behind it is each one's
    own."""
    prompts = [p.prompt.split() for p in plan(replace(LOAD, requests=50, shared_prefix=30))]
    assert {len(words) for words in prompts} == {50} and len({tuple(words[:30]) for words in prompts}) == 1
    assert len({tuple(words[30:]) for words in prompts}) == 50 and {w for words in prompts for w in words} <= set(WORDS)
    assert not warm_up(replace(LOAD, shared_prefix=30), 0).prompt.startswith(" ".join(prompts[0][:3]))


def test_mixed_lengths_keep_the_mean() -> None:
    """From a quarter to seven quarters."""
    found = list(plan(replace(LOAD, mixed_lengths=True)))
    for sizes, mean in (([len(p.prompt.split()) for p in found], 20), ([p.max_tokens for p in found], 40)):
        assert (min(sizes), max(sizes)) == (mean // 4, 2 * mean - mean // 4) and np.mean(sizes) == pytest.approx(
            mean, rel=0.05
        )
    assert {p.max_tokens for p in plan(replace(LOAD, requests=50, max_tokens=1, mixed_lengths=True))} <= {1, 2}


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"concurrency": 2}, "expected a rate or a concurrency, got both"),
        ({"rate": None}, "expected a rate or a concurrency, got neither"),
        ({"rate": 0.0}, "rate: expected None or a finite number above 0, got 0.0"),
        ({"rate": float("nan")}, "rate: expected"),
        ({"requests": 0}, "requests: expected an integer of at least 1, got 0"),
        ({"shared_prefix": -1}, "shared_prefix: expected"),
    ],
)
def test_a_load_that_is_none_is_refused(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInputError, match=match):
        replace(LOAD, **wrong)
