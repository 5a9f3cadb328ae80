"""How far a reply has come in its grammar, and which tokens may come next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.grammar.library import first_line
from tinyllm.engine.grammar.matcher_cache import CompiledGrammar
from tinyllm.errors import InvalidInputError, TinyllmError

if TYPE_CHECKING:
    import llguidance

Mask = NDArray[np.bool_]
"""For each token of the vocabulary whether it may come next, `[V]`."""


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


class GrammarState:
    """How far a reply has come in its grammar. The next mask is computed while the model runs."""

    def __init__(self, compiled: CompiledGrammar, size: int, ends: list[int], executor: Executor | None) -> None:
        self._compiled = compiled  # whose memory the copy shares
        self._matcher = compiled.matcher.deep_copy()
        self._size, self._ends, self._executor = size, ends, executor
        self._state: Callable[[], tuple[Mask, bool]]
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

    def accept(self, token: int) -> None:
        """Go on by a token of text that was chosen. Raises `TinyllmError` where the mask does not have it."""
        mask = self.mask()
        if not (0 <= token < mask.size and mask[token]) or not self._matcher.consume_token(token):
            raise TinyllmError(f"grammar: token {token} does not continue the reply")
        self.finished = self._matcher.is_stopped() and not self._matcher.is_error()
        if self.finished:
            self._state = lambda: (np.zeros(self._size, np.bool_), True)
        else:
            self._begin()

    def _begin(self) -> None:
        """Have the next mask computed: by the executor from now on, otherwise once, when it is asked for."""
        compute = partial(next_mask, self._matcher, self._size, self._ends)
        self._state = cache(compute) if self._executor is None else self._executor.submit(compute).result
