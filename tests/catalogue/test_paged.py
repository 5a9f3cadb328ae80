from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm import ops
from tinyllm.catalogue.attention.kv_append import kv_append
from tinyllm.catalogue.attention.paged_attention import paged_attention
from tinyllm.catalogue.attention.sdpa import sdpa
from tinyllm.errors import InvalidInputError
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, output_types

HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 8, 5
settings = st.fixed_dictionaries({"window": st.none() | st.integers(1, 9), "softcap": st.none() | st.floats(1, 20)})
lengths = st.lists(st.integers(1, 20), min_size=1, max_size=4)


class Sequence:
    """Queries, keys and values of a whole sequence, and what plain attention makes of them."""

    def __init__(self, length, seed, **given):
        rng = np.random.default_rng(seed)
        self.length = length
        self.q, self.k, self.v = (
            rng.standard_normal((length, h, d)) for h, d in ((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, VALUE_DIM))
        )
        q, k, v = (np.swapaxes(a, 0, 1) for a in (self.q, self.k, self.v))
        groups = HEADS // KV_HEADS
        y = sdpa.reference(np, q, np.repeat(k, groups, axis=0), np.repeat(v, groups, axis=0), causal=True, **given)
        self.expected = np.swapaxes(y, 0, 1)


class Cache:
    """A pool whose pages are handed out in a shuffled order; what was never written is NaN."""

    def __init__(self, page, sequences, seed):
        self.page = page
        counts = [-(-s.length // page) for s in sequences]
        order = np.random.default_rng(seed).permutation(sum(counts) + 1)
        self.table = np.full((len(counts), max(counts)), -1)
        for b, count in enumerate(counts):
            self.table[b, :count] = order[sum(counts[:b]) : sum(counts[: b + 1])]
        self.k = np.full((len(order), KV_HEADS, page, DIM), np.nan)
        self.v = np.full((len(order), KV_HEADS, page, VALUE_DIM), np.nan)

    def slots(self, b, first, last):
        places = np.arange(first, last)
        return self.table[b, places // self.page] * self.page + places % self.page

    def step(self, sequences, ranges, **given):
        """New tokens `first .. last - 1` of each sequence, written and attended to; the outputs sequence by
        sequence."""
        pieces = [(b, s, *r) for b, (s, r) in enumerate(zip(sequences, ranges, strict=True))]
        q, k, v = (np.concatenate([getattr(s, name)[first:last] for _, s, first, last in pieces]) for name in "qkv")
        slots = np.concatenate([self.slots(b, first, last) for b, _, first, last in pieces])
        self.k, self.v = kv_append.reference(np, self.k, self.v, k, v, slots)
        starts = np.cumsum([0, *(last - first for _, _, first, last in pieces)])
        ends = np.array([last for *_, last in pieces])
        y = paged_attention.reference(np, q, self.k, self.v, starts, ends, self.table, **given)
        return np.split(y, starts[1:-1])


@given(lengths=lengths, page=st.sampled_from([1, 3, 4, 32]), cuts=st.integers(0, 2**32), given_settings=settings)
def test_prefill_chunks_and_decode_give_what_plain_attention_gives(lengths, page, cuts, given_settings):
    """However each sequence is cut into steps, alone or in a crowd, on small pages or on one large page."""
    rng = np.random.default_rng(cuts)
    sequences = [Sequence(length, cuts + b, **given_settings) for b, length in enumerate(lengths)]
    cache, done, got = Cache(page, sequences, cuts), [0] * len(lengths), [[] for _ in lengths]
    while done != lengths:
        ends = [int(rng.integers(d, length + 1)) for d, length in zip(done, lengths, strict=True)]
        ends = [e if any(np.subtract(ends, done)) else length for e, length in zip(ends, lengths, strict=True)]
        for parts, y in zip(got, cache.step(sequences, zip(done, ends, strict=True), **given_settings), strict=True):
            parts.append(y)
        done = ends
    for sequence, parts in zip(sequences, got, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), sequence.expected, atol=1e-12)


def test_sinks_take_part():
    sinks = np.array([0.0, 1.0, -1.0, 2.0])
    sequence = Sequence(9, 1, sinks=sinks)
    (y,) = Cache(4, [sequence], 1).step([sequence], [(0, 9)], sinks=sinks)
    np.testing.assert_allclose(y, sequence.expected, atol=1e-12)


@given(page=st.integers(1, 5), count=st.integers(1, 5), data=st.data())
def test_append_writes_its_slots_and_nothing_else(page, count, data):
    slots = np.array(data.draw(st.lists(st.integers(0, page * count - 1), unique=True)), np.int32)
    rng = np.random.default_rng(0)
    pages = [rng.standard_normal((count, KV_HEADS, page, d)) for d in (DIM, VALUE_DIM)]
    tokens = [rng.standard_normal((len(slots), KV_HEADS, d)) for d in (DIM, VALUE_DIM)]
    for before, new, after in zip(pages, tokens, kv_append.reference(np, *pages, *tokens, slots), strict=True):
        expected = before.copy()
        for t, slot in enumerate(slots):
            expected[slot // page, :, slot % page] = new[t]
        np.testing.assert_array_equal(after, expected)


def test_tokens_of_other_sequences_are_not_seen():
    sequences = [Sequence(5, 1), Sequence(6, 2)]
    cache = Cache(4, sequences, 0)
    first, second = cache.step(sequences, [(0, 5), (0, 6)])
    sequences[1] = Sequence(6, 3)
    again, changed = Cache(4, sequences, 0).step(sequences, [(0, 5), (0, 6)])
    np.testing.assert_array_equal(first, again)
    assert np.abs(second - changed).max() > 0.1


def test_sizes_known_by_name_only():
    def numbers(*shape):
        return ArrayType(shape, "int32")

    pages = ArrayType(("P", 3, "page", 64), "float32")
    types = {
        "q": ArrayType(("T", 9, 64), "float32"),
        "k_pages": pages,
        "v_pages": pages,
        "q_start": numbers("B1"),
        "kv_len": numbers("B"),
        "block_table": numbers("B", "M"),
    }
    assert output_types(paged_attention, check_call(paged_attention, types, {}))[0].shape == ("T", 9, 64)
    token = ArrayType(("T", 3, 64), "float32")
    call = check_call(
        kv_append, {"k_pages": pages, "v_pages": pages, "k": token, "v": token, "slots": numbers("T")}, {}
    )
    assert [t.shape for t in output_types(kv_append, call)] == [("P", 3, "page", 64)] * 2
    with pytest.raises(InvalidInputError, match="q: expected a number of heads"):
        check_call(paged_attention, types | {"q": ArrayType(("T", 8, 64), "float32")}, {})


def test_what_the_table_holds_is_checked_at_each_call_of_one_form():
    """The second call has the form of the first, and other numbers."""
    q, pages = np.zeros((1, 4, 8), np.float32), np.zeros((2, 2, 4, 8), np.float32)
    starts, length = np.array([0, 1]), np.array([3])
    ops.paged_attention(q, pages, pages, starts, length, np.array([[1, -1]]), backend="numpy")
    with pytest.raises(InvalidInputError, match="block_table"):
        ops.paged_attention(q, pages, pages, starts, length, np.array([[2, -1]]), backend="numpy")


def _call(tokens, sequences, columns, pages, page, **attributes):
    pool, indices = ArrayType((pages, KV_HEADS, page, DIM), "float32"), {"q_start": (sequences + 1,)}
    indices |= {"kv_len": (sequences,), "block_table": (sequences, columns)}
    types = {"q": ArrayType((tokens, HEADS, DIM), "float32"), "k_pages": pool, "v_pages": pool}
    indices = {n: ArrayType(s, "int32") for n, s in indices.items()}
    return check_call(paged_attention, types | indices, attributes)


@given(data=st.data(), sequences=st.integers(0, 4), columns=st.integers(0, 4), page=st.integers(1, 3))
def test_a_page_may_stand_in_several_rows_and_once_in_each(data, sequences, columns, page):
    """Pages that `kv_len` does not reach do not count: what stands there is never read."""
    pages = data.draw(st.integers(1, 5))
    rows = [
        data.draw(st.lists(st.integers(0, pages - 1), min_size=columns, max_size=columns)) for _ in range(sequences)
    ]
    kv_len = [data.draw(st.integers(0, columns * page)) for _ in rows]
    read = [row[: -(-keys // page)] for row, keys in zip(rows, kv_len, strict=True)]
    repeated = [b for b, numbers in enumerate(read) if len(set(numbers)) < len(numbers)]
    values = {
        "q_start": np.zeros(sequences + 1, np.int32),
        "kv_len": np.array(kv_len, np.int32),
        "block_table": np.reshape(rows, (sequences, columns)).astype(np.int32),
    }
    check = partial(paged_attention.check_values, _call(0, sequences, columns, pages, page), values)
    if repeated:
        with pytest.raises(InvalidInputError, match=rf"twice in row {repeated[0]}$"):
            check()
    else:
        check()


@pytest.mark.parametrize("page", [0, "page"])
def test_pages_of_size_0_are_refused_and_those_of_unknown_size_are_not(page):
    with pytest.raises(InvalidInputError, match="pages of at least 1 token") if page == 0 else nullcontext():
        _call(1, 1, 1, 4, page)


def test_cost_counts_the_pages_of_the_table_and_not_the_pool():
    few, many = (_call(1, 1, 8, pages, 64) for pages in (8, 1000))
    rows = KV_HEADS * 8 * 64
    assert paged_attention.bytes(few) == paged_attention.bytes(many) == 4 * (2 * HEADS * DIM + 2 * rows * DIM)
    assert paged_attention.flops(few) == 4 * HEADS * 8 * 64 * DIM


@pytest.mark.parametrize(("new", "keys", "window"), [(1, 8, None), (5, 5, None), (3, 8, None), (5, 8, 2), (1, 8, 3)])
@pytest.mark.parametrize("sequences", [1, 3])
def test_cost_counts_the_keys_that_some_token_sees(new, keys, window, sequences):
    """Of sequences that are all of one length; what a window hides is neither read nor multiplied."""
    call = _call(sequences * new, sequences, keys, sequences * keys, 1, window=window)
    seen = np.tril(np.ones((keys, keys), bool)) & ~np.tril(np.ones((keys, keys), bool), -(window or keys))
    seen = seen[keys - new :]
    assert paged_attention.flops(call) == sequences * 4 * HEADS * DIM * seen.sum()
    read = 2 * KV_HEADS * DIM * seen.any(0).sum()
    assert paged_attention.bytes(call) == sequences * 4 * (2 * new * HEADS * DIM + read)
