"""The page pool: who holds which page, and which prefixes can be found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.bookkeeping import pool_problems
from tinyllm.engine.page_pool import OutOfPagesError, PagePool, page_keys


def test_pages_are_neighbours_where_they_can_be() -> None:
    """A sequence's next page follows its last one, and another sequence leaves it room."""
    pool = PagePool(16, 4)
    first = pool.allocate(2, room=4)
    second = pool.allocate(2, room=4)
    assert first == [0, 1] and second[1] == second[0] + 1 and second[0] >= 4
    assert pool.allocate(1, after=first[-1]) == [2]
    assert pool.allocate(1, after=second[-1]) == [second[-1] + 1]


def test_a_sequence_that_needs_the_whole_gap_begins_at_its_start() -> None:
    pool = PagePool(16, 4)
    pool.allocate(2)
    assert pool.allocate(14, room=14) == list(range(2, 16))


def test_more_than_there_is_takes_nothing() -> None:
    pool = PagePool(4, 4)
    held = pool.allocate(3)
    with pytest.raises(OutOfPagesError, match="2 pages were asked for, 1 of 4"):
        pool.allocate(2)
    assert pool.available == 1 and pool_problems(pool, [held]) == []


def test_a_prefix_is_found_and_shared() -> None:
    """Whole pages only, and only as far as all before them agree."""
    pool = PagePool(8, 2)
    keys = page_keys([1, 2, 3, 4, 5], 2)
    pages = pool.allocate(3)
    for page, key in zip(pages, keys, strict=False):
        pool.register(page, key)
    assert pool.match(page_keys([1, 2, 3, 4, 9, 9], 2)) == pages[:2]
    assert pool.match(page_keys([1, 2, 9, 4], 2)) == pages[:1]
    assert pool.match(page_keys([9, 2, 3, 4], 2)) == []
    assert pool_problems(pool, [pages, pages[:2], pages[:1]]) == []


def test_keys_tell_models_apart_and_need_not_be_made_twice() -> None:
    tokens = list(range(40))
    assert page_keys(tokens, 8, b"a")[0] != page_keys(tokens, 8, b"b")[0]
    assert page_keys(tokens, 8, b"a", page_keys(tokens[:20], 8, b"a")) == page_keys(tokens, 8, b"a")
    assert len(page_keys(tokens[:39], 8)) == 4


def test_kept_pages_go_least_recently_used_first_and_ends_before_beginnings() -> None:
    pool = PagePool(4, 1)
    old, new = ([pool.allocate(1)[0] for _ in range(2)] for _ in range(2))
    for pages, tokens in ((old, [1, 2]), (new, [3, 4])):
        for page, key in zip(pages, page_keys(tokens, 1), strict=True):
            pool.register(page, key)
        pool.release(pages)
    assert pool.available == 4 and pool.held == 0
    pool.allocate(1)
    assert pool.match(page_keys([1, 2], 1)) == old[:1]
    assert pool.match(page_keys([3, 4], 1)) == new


def test_what_a_broken_step_took_is_not_found() -> None:
    pool = PagePool(4, 1)
    pages = pool.allocate(2)
    for page, key in zip(pages, page_keys([1, 2], 1), strict=True):
        pool.register(page, key)
    pool.release(pages[1:])
    pool.forget()
    assert pool.match(page_keys([1, 2], 1)) == [] and pool_problems(pool, [pages[:1]]) == []


@given(
    unit=st.integers(1, 64),
    largest=st.integers(64, 4000),
    prompt=st.integers(1, 60),
    replies=st.lists(st.integers(1, 1500), min_size=1, max_size=4),
)
def test_growing_pages_are_moved_seldom_and_are_never_mostly_empty(
    unit: int, largest: int, prompt: int, replies: list[int]
) -> None:
    """A sequence of a few turns, token by token: all moves together copy less than two keys a token."""
    pool, tokens, copied = PagePool(1, unit, largest), prompt, 0
    for reply in replies:
        longest = min(largest, tokens + reply)
        while tokens < longest:
            tokens += 1
            before = pool.page_size
            pool.grow(tokens, longest)
            assert tokens <= pool.page_size and pool.page_size % unit == 0
            if pool.page_size != before:
                assert pool.page_size < min(largest, 2 * tokens) + unit
                copied += before
    assert copied < 2 * tokens
    before = pool.page_size
    pool.grow(before, largest)
    assert pool.page_size == before and pool.pages_for(before) == pool.pages_for(1) == 1


def test_a_reply_whose_end_is_in_sight_moves_no_more() -> None:
    pool = PagePool(1, 16, 5000)
    pool.grow(1000, 1300)
    assert pool.page_size == 1312  # 1,300 in units of 16
    pool.grow(1300, 1300)
    assert pool.page_size == 1312


def test_pages_of_a_fixed_size_do_not_grow() -> None:
    pool = PagePool(4, 16)
    pool.grow(60, 64)
    assert (pool.page_size, pool.capacity, pool.pages_for(60)) == (16, 64, 4)


def test_a_page_that_grows_is_taken_over_with_the_prefix_that_it_holds() -> None:
    """The one with the longest, by one sequence alone, and not while it is held."""
    pool = PagePool(3, 16, 100)
    pages = [pool.allocate(1) for _ in range(3)]
    assert pool.resumable([1, 2, 3]) == (None, 0)
    for page, tokens in zip(pages, ([1, 2, 9], [1, 2, 3, 4], [7]), strict=True):
        pool.release(page, tokens)
    assert pool.available == 3 and pool_problems(pool, []) == []
    assert pool.resumable([1, 2, 3, 5]) == (pages[1][0], 3) and pool.resumable([8]) == (None, 0)
    assert pool.resume([1, 2, 3, 5]) == (pages[1], 3) and pool_problems(pool, [pages[1]]) == []
    assert pool.resume([1, 2, 3, 5]) == (pages[0], 2) and pool.resume([1, 2]) == ([], 0)
    assert pool.allocate(1) == pages[2] and pool.available == 0 and pool.resume([7]) == ([], 0)


def test_a_page_that_grows_is_not_taken_over_where_its_keys_mean_something_else() -> None:
    pool = PagePool(1, 16, 100)
    pages = pool.allocate(1)
    pool.release(pages, [1, 2, 3], b"long")
    assert pool.resumable([1, 2]) == (None, 0) and pool.resume([1, 2], b"short") == ([], 0)
    assert pool.resume([1, 2, 4], b"long") == (pages, 2)


def test_pages_that_grow_begin_anew_when_what_they_held_is_lost() -> None:
    pool = PagePool(1, 16, 100)
    pages = pool.allocate(1)
    pool.grow(50, 60)
    pool.release(pages, [1, 2])
    pool.forget()
    assert pool.page_size == 16 and pool.resume([1, 2]) == ([], 0) and pool_problems(pool, []) == []


def test_problems_are_seen() -> None:
    """The check can fail: a page lost, one shared wrongly, one held and free."""
    pool = PagePool(4, 1)
    pages = pool.allocate(2)
    assert (
        pool_problems(pool, []) and pool_problems(pool, [pages, pages]) and pool_problems(pool, [[pages[0], pages[0]]])
    )
    pool._free[pages[0]] = 1
    assert any("expected one of them" in p for p in pool_problems(pool, [pages]))
