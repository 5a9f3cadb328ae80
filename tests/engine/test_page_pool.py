"""The page pool: who holds which page, and which prefixes can be found."""

from __future__ import annotations

import pytest

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
    assert pool.available == 1 and pool.problems([held]) == []


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
    assert pool.problems([pages, pages[:2], pages[:1]]) == []


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
    assert pool.match(page_keys([1, 2], 1)) == [] and pool.problems([pages[:1]]) == []


def test_problems_are_seen() -> None:
    """The check can fail: a page lost, one shared wrongly, one held and free."""
    pool = PagePool(4, 1)
    pages = pool.allocate(2)
    assert pool.problems([]) and pool.problems([pages, pages]) and pool.problems([[pages[0], pages[0]]])
    pool._free[pages[0]] = True
    assert any("expected one of them" in p for p in pool.problems([pages]))
