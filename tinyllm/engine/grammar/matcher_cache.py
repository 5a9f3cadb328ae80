"""Compiled grammars, the latest of them kept for the next reply that asks for one."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import llguidance

Key = TypeVar("Key", bound=Hashable)


class CompiledGrammar:
    """A matcher before the first token, which is copied for each reply.

    Args:
        bytes: about what it takes, 0: not known.
        slow: whether its first mask may take long.
    """

    def __init__(self, matcher: llguidance.LLMatcher, bytes: int = 0, slow: bool = False) -> None:
        self.matcher, self.bytes, self.slow = matcher, bytes, slow


class MatcherCache(Generic[Key]):
    """Keeps compiled grammars, and counts the bytes of those that are in use, kept or not. May be used by several
    threads.

    Args:
        most: grammars kept. bytes: that all may have together.
    """

    def __init__(self, most: int, bytes: int) -> None:
        self._most, self._bytes = most, bytes
        self._lock = threading.RLock()  # a grammar may be collected while it is held
        self._kept: OrderedDict[Key, CompiledGrammar] = OrderedDict()
        self.held = 0
        """Bytes of all that are kept or in use."""

    def get(self, key: Key) -> CompiledGrammar | None:
        """The grammar of a key, where it is kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def make_room(self, bytes: int) -> bool:
        """Whether a grammar of so many bytes may be made; those that are kept go for it, the longest unused first."""
        with self._lock:
            while self.held + bytes > self._bytes and self._kept:
                self._kept.popitem(last=False)
            if self.held + bytes > self._bytes:
                return False
            self.held += bytes
            return True

    def put(self, key: Key, compiled: CompiledGrammar) -> None:
        """Keep a grammar for which there was room."""
        weakref.finalize(compiled, self.release, compiled.bytes)
        with self._lock:
            self._kept[key] = compiled
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def release(self, bytes: int) -> None:
        """Say that a grammar with so many bytes is gone, or was not made after all."""
        with self._lock:
            self.held -= bytes

    def __len__(self) -> int:
        return len(self._kept)
