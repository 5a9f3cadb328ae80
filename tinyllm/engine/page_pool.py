"""Which pages of the KV cache are free, who holds the others, and which prompt prefixes stand in them.

A page is free, held by one or more sequences, or kept: nobody holds it, but what it contains may serve a later prompt;
kept pages go, least recently used first, when there are no free ones. Page numbers are all that is dealt in here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from tinyllm.errors import TinyllmError

Key = bytes
"""What a page contains: a hash of its tokens and of all before them, and of what else its numbers depend on."""


class OutOfPagesError(TinyllmError):
    """More pages were asked for than there are; nothing was taken."""


def page_keys(tokens: Sequence[int], page_size: int, salt: bytes = b"", known: Sequence[Key] = ()) -> list[Key]:
    """A key for each whole page of a sequence.

    Args:
        salt: model, adapter and dtype of the cache.
        known: the first of the keys, which need not be made again.
    """
    keys = list(known)
    key = keys[-1] if keys else hashlib.blake2b(salt, digest_size=16).digest()
    whole = np.asarray(tokens[len(keys) * page_size : len(tokens) // page_size * page_size], np.int32).reshape(
        -1, page_size
    )
    for page in whole:
        key = hashlib.blake2b(key + page.tobytes(), digest_size=16).digest()
        keys.append(key)
    return keys


class PagePool:
    """Pages 0 to `pages - 1`."""

    def __init__(self, pages: int, page_size: int) -> None:
        self.pages = pages
        self.page_size = page_size
        self._free = np.ones(pages, bool)
        self._holders = [0] * pages
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._key_of: dict[int, Key] = {}
        self._page_of: dict[Key, int] = {}

    @property
    def available(self) -> int:
        """Pages that can be had: free ones and kept ones."""
        return int(self._free.sum()) + len(self._kept)

    @property
    def held(self) -> int:
        """Pages that sequences hold."""
        return self.pages - self.available

    def pages_for(self, tokens: int) -> int:
        """How many pages so many tokens take."""
        return -(-tokens // self.page_size)

    def allocate(self, count: int, after: int | None = None, room: int = 0) -> list[int]:
        """Take pages, neighbours where possible: kernels read a run of neighbours in place, and have to gather others.

        Args:
            after: the sequence's last page, which the new ones follow if they are free.
            room: how many pages the sequence may need in all; it begins where so many are free.

        Raises:
            OutOfPagesError: fewer are available.
        """
        if count > self.available:
            raise OutOfPagesError(f"{count} pages were asked for, {self.available} of {self.pages} are available")
        while count > self._free.sum():
            self._evict()
        taken: list[int] = []
        place = None if after is None else after + 1
        while len(taken) < count:
            if place is None or place >= self.pages or not self._free[place]:
                place = self._begin(max(count - len(taken), room - len(taken)))
            self._free[place] = False
            self._holders[place] = 1
            taken.append(place)
            place += 1
        return taken

    def _begin(self, room: int) -> int:
        """Where a sequence begins: in the middle of the largest gap, so that it and its neighbour both can grow, or
        earlier if it must."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self._free, [False]]).astype(np.int8)))
        starts, ends = edges[::2], edges[1::2]
        largest = int(np.argmax(ends - starts))
        start, end = int(starts[largest]), int(ends[largest])
        if start == 0 and end == self.pages:
            return 0
        return max(start, min((start + end) // 2, end - room))

    def _evict(self) -> None:
        page, _ = self._kept.popitem(last=False)
        del self._page_of[self._key_of.pop(page)]
        self._free[page] = True

    def known(self, keys: Sequence[Key]) -> int:
        """How many of these keys, from the first, are those of a page."""
        return next((n for n, key in enumerate(keys) if key not in self._page_of), len(keys))

    def match(self, keys: Sequence[Key]) -> list[int]:
        """Pages that contain the longest prefix of these keys; they are held from now on."""
        found = [self._page_of[key] for key in keys[: self.known(keys)]]
        for page in found:
            self._kept.pop(page, None)
            self._holders[page] += 1
        return found

    def register(self, page: int, key: Key) -> None:
        """A held page is whole now, and this is what it contains. Where another page contains the same, that one stays
        the one to find."""
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key], self._key_of[page] = page, key

    def release(self, pages: Sequence[int]) -> None:
        """A sequence needs them no longer. Those with a key are kept, the end of a prefix going before its
        beginning."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._key_of:
                    self._kept[page] = None
                else:
                    self._free[page] = True

    def forget(self) -> None:
        """What kept and registered pages contain is gone: a step that was broken off has taken the pool with it."""
        for page in self._kept:
            self._free[page] = True
        self._kept.clear()
        self._key_of.clear()
        self._page_of.clear()

    def problems(self, holders: Sequence[Sequence[int]]) -> list[str]:
        """What is not as it must be, given the pages that each sequence holds; empty if all is well."""
        counts = [0] * self.pages
        for pages in holders:
            if len(set(pages)) != len(pages):
                return [f"a sequence holds a page twice: {list(pages)}"]
            for page in pages:
                counts[page] += 1
        found = []
        for page in range(self.pages):
            states = (bool(self._free[page]), page in self._kept, self._holders[page] > 0)
            if sum(states) != 1:
                found.append(f"page {page}: free {states[0]}, kept {states[1]}, held {states[2]}: expected one of them")
            if counts[page] != self._holders[page]:
                found.append(f"page {page}: held {self._holders[page]} times, by {counts[page]} sequences")
            if self._free[page] and page in self._key_of:
                found.append(f"page {page}: free, but registered")
            if page in self._kept and page not in self._key_of:
                found.append(f"page {page}: kept, but nobody can find it")
        if {p: k for k, p in self._page_of.items()} != self._key_of:
            found.append("keys and pages do not name each other")
        return found
