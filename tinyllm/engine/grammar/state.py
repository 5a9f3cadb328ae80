"""How far a reply has come in its grammar, and which tokens may come next."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.grammar.library import first_line
from tinyllm.engine.grammar.matcher_cache import CompiledGrammar
from tinyllm.errors import InvalidInputError, TinyllmError

if TYPE_CHECKING:
    import llguidance

_SLOW = 0.005
"""Seconds of processor time past which a mask is one that takes long; nearly all take a tenth of it."""
Mask = NDArray[np.bool_]
"""For each token of the vocabulary whether it may come next, `[V]`."""

_Next = tuple[Mask, bool, float]
"""The next mask, whether the reply may end before it, and the processor time that the mask took."""


def next_mask(matcher: llguidance.LLMatcher, size: int, ends: list[int]) -> tuple[Mask, bool]:
    """The tokens of text that may come next, and whether the reply may end here.

    Args:
        size: of the vocabulary. ends: its tokens that end replies, which are no text.

    Raises:
        InvalidInputError: llguidance gave up, as the grammar asks for more than a step may cost.
    """
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    if matcher.is_error():
        if matcher.get_error().startswith("NoExtension"):  # what must come next cannot be spelled: no token is allowed
            return np.zeros(size, np.bool_), False
        raise InvalidInputError(f"grammar: this reply cannot go on: {first_line(matcher.get_error())}")
    mask = np.unpackbits(bits, bitorder="little", count=size).view(np.bool_)
    mask[ends] = False
    return mask, matcher.is_accepting()


def _timed_mask(matcher: llguidance.LLMatcher, size: int, ends: list[int]) -> _Next:
    start = time.thread_time()
    return *next_mask(matcher, size, ends), time.thread_time() - start


class GrammarState:
    """How far a reply has come in its grammar. The next mask is computed while the model runs.

    Args:
        executor, slow_executor: as `Grammars` has them.
    """

    def __init__(
        self,
        compiled: CompiledGrammar,
        size: int,
        ends: list[int],
        executor: Executor | None = None,
        slow_executor: Executor | None = None,
    ) -> None:
        self._compiled = compiled  # whose memory the copy shares
        self._matcher = compiled.matcher.deep_copy()
        self._size, self._ends, self._executor, self._slow_executor = size, ends, executor, slow_executor
        self._slow = compiled.slow
        self._state: Callable[[], _Next]
        self._pending: Future[_Next] | None = None
        self.finished = False
        """Whether the reply can only end."""
        self._begin()

    def mask(self) -> Mask:
        """Which tokens of text may come next, `[vocabulary]`; none where the reply can only end."""
        return self._state()[0]

    @property
    def may_end(self) -> bool:
        """Whether the reply is whole as it is."""
        return self._state()[1]

    @property
    def late(self) -> bool:
        """Whether the next mask is not there yet, and others had better not wait for it."""
        return self._slow and self._pending is not None and not self._pending.done()

    def accept(self, token: int) -> None:
        """Go on by a token of text that was chosen. Raises `TinyllmError` where the mask does not have it."""
        mask, _, seconds = self._state()
        self._slow = seconds > _SLOW
        if not (0 <= token < mask.size and mask[token]) or not self._matcher.consume_token(token):
            raise TinyllmError(f"grammar: token {token} does not continue the reply")
        self.finished = self._matcher.is_stopped() and not self._matcher.is_error()
        if self.finished:
            nothing = np.zeros(self._size, np.bool_)
            self._state = lambda: (nothing, True, 0.0)
        else:
            self._begin()

    def _begin(self) -> None:
        """Have the next mask computed: by the executor from now on, otherwise once, when it is asked for."""
        compute = partial(_timed_mask, self._matcher, self._size, self._ends)
        executor = self._slow_executor if self._slow else self._executor
        if executor is None:
            self._state = cache(compute)
        else:
            self._pending = executor.submit(compute)
            self._state = self._pending.result
