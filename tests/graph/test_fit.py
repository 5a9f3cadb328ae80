"""What makes a model fit makes it fit, and nothing smaller was asked for than must be."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tinyllm.graph.tools.fit import Choices, Need, Remedy, remedies

NEED = Need(weights=1000, values=50, process=20, by_token=4, by_sequence=6, page_size=16, context=100, batch=3)
BYTES = st.integers(0, 10**6)


def changed(need: Need, remedy: Remedy, choices: Choices) -> Need:
    """The need with a remedy."""
    return replace(
        need,
        weights=need.weights if remedy.bits is None else choices.weights[remedy.bits],
        by_token=need.by_token if remedy.cache_dtype is None else choices.by_token[remedy.cache_dtype],
        context=remedy.context or need.context,
        batch=remedy.batch or need.batch,
    )


def test_a_cache_is_taken_by_pages_and_rows() -> None:
    """Seven pages of 16 tokens hold 100."""
    assert NEED.cache == 3 * (7 * 16 * 4 + 6)
    assert NEED.total == 1000 + 50 + 20 + NEED.cache


SIZE = st.integers(0, 2000)
NEEDS = st.builds(Need, BYTES, BYTES, BYTES, SIZE, BYTES, st.integers(1, 300), st.integers(1, 9000), st.integers(1, 64))


@given(need=NEEDS, memory=st.integers(1, 10**8), weights=st.lists(st.floats(0.01, 0.99), max_size=4))
def test_every_remedy_fits_and_says_what_is_needed_then(need: Need, memory: int, weights: list[float]) -> None:
    """Those that are one change are the least that this change has to be; where there are none, nothing fits."""
    by_bits = {8 - n: int(need.weights * share) for n, share in enumerate(sorted(weights, reverse=True))}
    choices = Choices(by_bits, {"half": need.by_token // 2})
    found = [] if need.total <= memory else remedies(need, memory, choices)
    for remedy in found:
        made = changed(need, remedy, choices)
        assert made.total == remedy.total <= memory
        if remedy.context is not None:
            assert replace(made, context=min(need.context, made.context + need.page_size)).total > memory
        if remedy == Remedy(remedy.total, batch=remedy.batch):
            assert replace(made, batch=made.batch + 1).total > memory
        if remedy == Remedy(remedy.total, bits=remedy.bits):
            more = [weights for bits, weights in by_bits.items() if remedy.bits is not None and bits > remedy.bits]
            assert all(replace(need, weights=weights).total > memory for weights in more)
    if need.total > memory and not found:
        least = replace(need, batch=1, context=min(need.page_size, need.context), by_token=need.by_token // 2)
        assert replace(least, weights=min([need.weights, *by_bits.values()])).total > memory


def test_changes_go_together_where_none_is_enough() -> None:
    """The context is the last to go."""
    choices = Choices({4: 500, 2: 250}, {"half": 2})
    (together,) = remedies(NEED, 400, choices)
    assert together.bits == 2 and together.cache_dtype == "half" and together.total <= 400
    assert remedies(NEED, 300, choices) == []
