"""Which pages of the KV cache are free, who holds the others, and which prompt prefixes stand in them.

A page is free, held by one or more sequences, or kept: nobody holds it, but what it contains may serve a later prompt;
kept pages go, least recently used first, when there are no free ones. Page numbers are all that is dealt in here.

There are two ways to lay out a cache. Pages of a fixed size are for a crowd: a sequence takes as many as it needs, and
shares those that are whole with every sequence that has the same prefix. Pages that grow are for one sequence, or a
few: each lies in a page of its own, in one piece, which kernels of every library read in place; memory is taken as the
longest of them grows; and a sequence that comes later goes on in the page of one that has ended, from the last token
that the two have in common.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from tinyllm.errors import TinyllmError

_GAP = re.compile(rb"\x01+")
"""Free pages side by side."""

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
    missing = tokens[len(keys) * page_size : len(tokens) // page_size * page_size]
    data, size = np.asarray(missing, np.int32).tobytes(), 4 * page_size
    for start in range(0, len(data), size):
        key = hashlib.blake2b(key + data[start : start + size], digest_size=16).digest()
        keys.append(key)
    return keys


class PagePool:
    """Pages 0 to `pages - 1`.

    Args:
        page_size: tokens of a page.
        largest: tokens up to which pages grow, in multiples of `page_size`; None: they do not.
    """

    def __init__(self, pages: int, page_size: int, largest: int | None = None) -> None:
        self.pages, self.page_size, self.largest = pages, page_size, largest
        self._unit = page_size
        self.held = 0
        """Pages that sequences hold."""
        self._free = bytearray(b"\x01" * pages)  # 1: free
        self._holders = [0] * pages
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._key_of: dict[int, Key] = {}
        self._page_of: dict[Key, int] = {}
        self._tokens_in: dict[int, tuple[bytes, Sequence[int]]] = {}

    @property
    def available(self) -> int:
        """Pages that can be had: free ones and kept ones."""
        return self.pages - self.held

    @property
    def capacity(self) -> int:
        """Most tokens that one sequence can have."""
        return self.pages * self.page_size if self.largest is None else self.largest

    def pages_for(self, tokens: int) -> int:
        """How many pages so many tokens take."""
        return -(-tokens // self.page_size) if self.largest is None else 1

    def grow(self, tokens: int, longest: int) -> None:
        """Let pages that grow hold so many tokens of a sequence that can come to `longest` tokens.

        A page of s tokens that has to hold n > s becomes, in tokens,

            min(largest, max(min(longest, 2 n), 2 s)), rounded up to a multiple of the first size.

        As it at least doubles, all moves together copy less than twice the keys that there are in the end. A reply
        whose end is in sight (longest <= 2 n) moves no more. Less than half of the page and one unit stay empty. A
        token takes 2 * layers * kv_heads * head_dim numbers: 45 KiB for SmolLM2 in float32.
        """
        if self.largest is not None and tokens > self.page_size:
            size = min(self.largest, max(min(longest, 2 * tokens), 2 * self.page_size))
            self.page_size = -(-size // self._unit) * self._unit

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
        while count > self.available - len(self._kept):
            self._evict()
        taken: list[int] = []
        place = None if after is None else after + 1
        while len(taken) < count:
            if place is None or place >= self.pages or not self._free[place]:
                place = self._begin(max(count - len(taken), room - len(taken)))
            self._free[place] = 0
            self._holders[place] = 1
            taken.append(place)
            place += 1
        self.held += count
        return taken

    def _begin(self, room: int) -> int:
        """Where a sequence begins: in the middle of the largest gap, so that it and its neighbour both can grow, or
        earlier if it must."""
        largest = max(_GAP.findall(self._free), key=len)
        start = self._free.find(largest)
        end = start + len(largest)
        if start == 0 and end == self.pages:
            return 0
        return max(start, min((start + end) // 2, end - room))

    def _evict(self) -> None:
        page, _ = self._kept.popitem(last=False)
        if self._tokens_in.pop(page, None) is None:
            del self._page_of[self._key_of.pop(page)]
        self._free[page] = 1

    def known(self, keys: Sequence[Key]) -> int:
        """How many of these keys, from the first, are those of a page."""
        for n, key in enumerate(keys):
            if key not in self._page_of:
                return n
        return len(keys)

    def match(self, keys: Sequence[Key]) -> list[int]:
        """Pages that contain the longest prefix of these keys; they are held from now on."""
        pages = [self._page_of[key] for key in keys[: self.known(keys)]]
        for page in pages:
            if not self._holders[page]:
                del self._kept[page]
                self.held += 1
            self._holders[page] += 1
        return pages

    def resumable(self, tokens: Sequence[int], salt: bytes = b"", whole: bool = False) -> tuple[int | None, int]:
        """The kept page that grows and has the longest prefix of these tokens, and how long that is; None where no page
        has any. salt: what keys depend on besides tokens. whole: only pages that hold no other tokens."""
        lengths = {page: _common(held, tokens) for page, (of, held) in self._tokens_in.items() if of == salt}
        if whole:
            lengths = {page: n for page, n in lengths.items() if n == len(self._tokens_in[page][1])}
        page = max(lengths, key=lengths.__getitem__, default=None)
        return (None, 0) if page is None or not lengths[page] else (page, lengths[page])

    def resume(self, tokens: Sequence[int], salt: bytes = b"", whole: bool = False) -> tuple[list[int], int]:
        """Take the page that `resumable` names, to write on after its prefix: (pages, tokens that they hold)."""
        page, length = self.resumable(tokens, salt, whole)
        if page is None:
            return [], 0
        del self._tokens_in[page], self._kept[page]
        self._holders[page] = 1
        self.held += 1
        return [page], length

    def register(self, page: int, key: Key) -> None:
        """A held page is whole now, and this is what it contains. Where another page contains the same, that one stays
        the one to find."""
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key], self._key_of[page] = page, key

    def release(self, pages: Sequence[int], tokens: Sequence[int] = (), salt: bytes = b"") -> None:
        """A sequence needs its pages no longer; `tokens`: those that they hold, `salt`: what else keys depend on.

        Pages with a key are kept, the end of a prefix going before its beginning; so is a page that grows.
        """
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            self.held -= 1
            if self.largest is not None and tokens:
                self._tokens_in[page] = salt, tokens
            if page in self._key_of or page in self._tokens_in:
                self._kept[page] = None
            else:
                self._free[page] = 1

    def forget(self) -> None:
        """What pages contain is gone: a step that was broken off has taken the pool with it. Pages that grow begin
        anew, as the size that they had may have been what there was no memory for."""
        for page in self._kept:
            self._free[page] = 1
        for contents in (self._kept, self._key_of, self._page_of, self._tokens_in):
            contents.clear()
        self.page_size = self._unit


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common, from the first."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
