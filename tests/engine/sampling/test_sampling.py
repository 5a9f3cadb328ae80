"""Sampling against plain definitions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinyllm.engine.sampling.adjust import TokenCounts, adjust
from tinyllm.engine.sampling.logprobs import log_probability
from tinyllm.engine.sampling.params import SamplingParams
from tinyllm.engine.sampling.sample import sample
from tinyllm.errors import InvalidInputError

shares = st.floats(0.01, 0.99)
rows = st.lists(st.integers(-400, 400), min_size=1, max_size=24, unique=True).map(
    lambda r: np.array(r, np.float32) / 50
)


def noise(seed: int, position: int) -> float:
    """The number between 0 and 1 that decides."""
    return float(np.random.Generator(np.random.Philox(key=[seed, position])).random())


def plainly(
    logits: Any, u: float, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> int:
    """The definition: temperature, the k likeliest, the smallest set that reaches p of what is left, those near the
    best; then draw."""
    top = float(max(logits))
    weights = {i: math.exp((float(x) - top) / temperature) for i, x in enumerate(logits)}
    order = sorted(weights, key=lambda i: -weights[i])
    kept = order[:top_k]
    if top_p is not None:
        total, reached = math.fsum(weights[i] for i in kept), 0.0
        for count, i in enumerate(kept, 1):
            reached += weights[i]
            assume(abs(reached - top_p * total) > 1e-6 * total or count == len(kept))
            if reached >= top_p * total:
                kept = kept[:count]
                break
    kept = [i for i in kept if not min_p or weights[i] >= min_p * weights[order[0]]]
    total, reached = math.fsum(weights[i] for i in kept), 0.0
    for i in sorted(kept):
        reached += weights[i]
        assume(abs(reached - u * total) > 1e-6 * total)
        if reached > u * total:
            return i
    return max(kept)


@settings(deadline=None)
@given(
    rows, st.floats(0.05, 5), st.none() | st.integers(1, 30), st.none() | shares, st.none() | shares, st.integers(0, 9)
)
def test_filters_are_as_defined(logits: Any, temperature: float, top_k: Any, top_p: Any, min_p: Any, seed: int) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for position in range(4):
        expected = plainly(logits, noise(seed, position), temperature, top_k, top_p, min_p)
        assert sample(logits, params, seed, position) == expected


@settings(deadline=None)
@given(rows)
def test_greedy_is_the_largest(logits: Any) -> None:
    assert sample(logits, SamplingParams(), seed=1, position=2) == int(np.argmax(logits))
    assert sample(logits, SamplingParams(temperature=1.0, top_k=1), seed=1, position=2) == int(np.argmax(logits))


def test_greedy_takes_the_first_of_equals() -> None:
    assert sample(np.array([0, 3, 3, 1], np.float32), SamplingParams(), 0, 0) == 1


def test_noise_depends_on_seed_and_position_alone() -> None:
    logits, params = np.zeros(1000, np.float32), SamplingParams(temperature=1.0)
    grid = {(s, p): sample(logits, params, s, p) for s in range(20) for p in range(20)}
    again = {(s, p): sample(logits, params, s, p) for s, p in sorted(grid, reverse=True)}
    assert grid == again
    assert len(set(grid.values())) > 250  # 400 draws of 1000 hit about 330
    assert all(token == int(noise(s, p) * 1000) for (s, p), token in grid.items())


def test_frequencies_follow_probabilities() -> None:
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])
    logits, params = np.log(probabilities).astype(np.float32), SamplingParams(temperature=1.0)
    draws = 4000
    counts = np.bincount([sample(logits, params, 3, p) for p in range(draws)], minlength=4)
    assert (
        (counts - draws * probabilities) ** 2 / (draws * probabilities)
    ).sum() < 16.3  # chi-square, 3 degrees of freedom, 0.1 %


def test_temperature_sharpens_and_flattens() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    shares = []
    for temperature in (0.2, 1.0, 20.0):
        params = SamplingParams(temperature=temperature)
        shares.append(sum(sample(logits, params, 0, p) == 0 for p in range(1000)) / 1000)
    assert shares[0] > 0.97 and 0.6 < shares[1] < 0.73 and 0.3 < shares[2] < 0.42


def test_top_p_over_more_tokens_than_are_sorted_at_first() -> None:
    logits = np.linspace(0, 1e-3, 5000).astype(np.float32)[::-1].copy()
    drawn = {sample(logits, SamplingParams(temperature=1.0, top_p=0.5), 0, p) for p in range(3000)}
    assert 2400 < max(drawn) < 2510


def test_extreme_temperatures_stay_finite() -> None:
    logits = np.array([100.0, -100.0, 99.0], np.float32)
    assert sample(logits, SamplingParams(temperature=1e-6), 0, 0) == 0
    assert {sample(logits, SamplingParams(temperature=1e6), 0, p) for p in range(60)} == {0, 1, 2}


def counted(prompt: list[int], generated: list[int]) -> TokenCounts:
    counts = TokenCounts(prompt)
    for token in generated:
        counts.add(token)
    return counts


def test_repetition_penalty_pushes_down_what_was_said() -> None:
    params = SamplingParams(repetition_penalty=2.0)
    logits = np.array([4.0, 3.0, -1.0], np.float32)
    assert adjust(logits, params, counted([0], [])).tolist() == [2, 3, -1]
    assert adjust(logits, params, counted([0, 0], [0, 1, 2])).tolist() == [
        2,
        1.5,
        -2,
    ]  # once, however often; below 0 it multiplies
    assert adjust(logits, params).tolist() == logits.tolist() == [4.0, 3.0, -1.0]


@pytest.mark.parametrize("penalty", [1e-300, 1e300])
def test_a_repetition_penalty_past_float32_leaves_numbers(penalty: float) -> None:
    """The strongest that there are, not infinity and what is no number."""
    params = SamplingParams(repetition_penalty=penalty, temperature=1.0)
    changed = adjust(np.array([4.0, 0.0, -1.0, 2.0], np.float32), params, counted([0, 1, 2], []))
    assert np.isfinite(changed).all()
    assert {sample(changed, params, seed, 0) for seed in range(20)} == ({0} if penalty < 1 else {0, 1, 3})


tokens = st.lists(st.integers(0, 199), max_size=300)


@settings(deadline=None)
@given(
    tokens,
    tokens,
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(0.5, 2),
    st.dictionaries(st.integers(0, 199), st.floats(-100, 100)),
)
def test_penalties_and_bias_are_as_defined(
    prompt: Any, generated: Any, frequency: float, presence: float, repetition: float, bias: dict[int, float]
) -> None:
    logits = np.random.default_rng(len(prompt)).normal(size=200).astype(np.float32)
    params = SamplingParams(
        frequency_penalty=frequency, presence_penalty=presence, repetition_penalty=repetition, logit_bias=bias
    )
    expected = []
    for token, logit in enumerate(logits.tolist()):
        if token in prompt or token in generated:
            logit = logit / repetition if logit > 0 else logit * repetition
        count = generated.count(token)
        expected.append(logit - count * frequency - (count > 0) * presence + bias.get(token, 0))
    assert adjust(logits, params, counted(prompt, generated)).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 19), min_size=1),
    st.sets(st.integers(0, 40)),
    st.sampled_from([{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.1}]),
)
def test_what_is_banned_or_not_allowed_is_never_drawn(
    allowed: set[int], banned: set[int], filters: dict[str, Any]
) -> None:
    assume(allowed - banned)
    mask = np.isin(np.arange(20), [*allowed])
    adjusted = adjust(np.linspace(0, 9, 30, dtype=np.float32), SamplingParams(), allowed=mask, banned=banned)
    drawn = {sample(adjusted, SamplingParams(temperature=3.0, **filters), 0, p) for p in range(60)}
    assert drawn <= allowed - banned


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"top_k": 50},
        {"top_k": 3000},
        {"top_p": 0.9},
        {"top_p": 0.995},
        {"min_p": 0.02},
        {"top_k": 40, "top_p": 0.8, "min_p": 0.01},
    ],
)
@pytest.mark.parametrize("spread", [0.001, 1.0, 5.0])
@settings(deadline=None, max_examples=8)
@given(position=st.integers(0, 10**6))
def test_the_shortcuts_for_many_tokens_draw_as_defined(filters: dict[str, Any], spread: float, position: int) -> None:
    logits = (np.random.default_rng(5).permutation(5003) / 1000 * spread).astype(np.float32)
    whole: dict[str, Any] = {"top_k": None, "top_p": None, "min_p": None} | filters
    expected = plainly(logits, noise(4, position), 0.8, **whole)
    assert sample(logits, SamplingParams(temperature=0.8, **filters), 4, position) == expected


def test_a_draw_never_takes_a_weight_of_zero() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 300]] = 1.0
    assert {sample(logits, SamplingParams(temperature=1e-9), 0, p) for p in range(50)} == {3, 300}


def test_log_probabilities_are_those_of_the_model() -> None:
    probabilities = np.array([0.1, 0.6, 0.3])
    entry = log_probability((np.log(probabilities) + 7).astype(np.float32), 2, 2)
    assert entry.token_id == 2
    assert entry.logprob == pytest.approx(math.log(0.3), abs=1e-6)
    assert [t for t, _ in entry.top] == [1, 2]
    assert [p for _, p in entry.top] == pytest.approx([math.log(0.6), math.log(0.3)], abs=1e-6)
    assert log_probability(np.zeros(3, np.float32), 0, 0).top == ()
    assert [t for t, _ in log_probability(np.zeros(400, np.float32), 0, 3).top] == [0, 1, 2]
    assert len(log_probability(np.zeros(5, np.float32), 0, 20).top) == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -2),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_p", -0.1),
        ("top_p", 1.01),
        ("top_k", -2),
        ("top_k", 2.0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
        ("seed", -1),
        ("logprobs", -1),
        ("stop", ("",)),
        ("stop", (3,)),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("presence_penalty", math.nan),
        ("logit_bias", {1: 101}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {"1": 1}),
        ("logit_bias", 3),
        ("logit_bias", {1: None}),
        ("logit_bias", (3,)),
        ("min_tokens", -1),
        ("min_tokens", 257),
        ("stop_token_ids", 3),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", "ab"),
        ("ignore_eos", 1),
        ("grammar", "a+"),
        ("seed", 2**64),
        ("seed", 2**63),
        ("stop", None),
        ("stop", 5),
        ("stop", {"a": 1}),
        ("stop", (s for s in "ab")),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"sampling: {name}: expected"):
        SamplingParams(**{name: value})


def test_the_largest_seed_draws() -> None:
    assert sample(np.zeros(9, np.float32), SamplingParams(temperature=1.0), 2**63 - 1, 5) in range(9)


def test_settings_stay_hashable_and_can_be_replaced() -> None:
    params = SamplingParams(logit_bias={5: -1, 3: 2.5}, stop_token_ids=[4])  # type: ignore[arg-type]
    assert params.logit_bias == ((5, -1.0), (3, 2.5)) and params.stop_token_ids == (4,)
    assert replace(params, seed=3) == SamplingParams(logit_bias=((5, -1.0), (3, 2.5)), stop_token_ids=(4,), seed=3)
    assert hash(params) == hash(replace(params))


@pytest.mark.parametrize(("name", "value"), [("logit_bias", {3: 1, 128: 1}), ("stop_token_ids", (128,))])
def test_token_ids_outside_the_vocabulary_are_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"sampling: {name}: expected token ids from 0 to 127, got 128"):
        SamplingParams(**{name: value}).check_vocabulary(128)
