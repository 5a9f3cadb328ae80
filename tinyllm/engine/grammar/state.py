"""How far a reply has come in its grammar."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING

import numpy as np

from tinyllm.engine.grammar.mask import Mask, next_mask
from tinyllm.errors import TinyllmError

if TYPE_CHECKING:
    import llguidance


class GrammarState:
    """How far a reply has come in its grammar. The next mask is computed while the model runs."""

    def __init__(self, matcher: llguidance.LLMatcher, size: int, ends: list[int], executor: Executor | None) -> None:
        self._matcher, self._size, self._ends, self._executor = matcher, size, ends, executor
        self._next: Future[tuple[Mask, bool]] | None = None
        self._now: tuple[Mask, bool] | None = None
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
        mask, _ = self._state()
        if not (0 <= token < mask.size and mask[token]) or not self._matcher.consume_token(token):
            raise TinyllmError(f"grammar: token {token} does not continue the reply")
        self.finished = self._matcher.is_stopped() and not self._matcher.is_error()
        self._now = (np.zeros(self._size, np.bool_), True) if self.finished else None
        if not self.finished:
            self._begin()

    def _begin(self) -> None:
        self._next = self._executor.submit(self._compute) if self._executor is not None else None

    def _state(self) -> tuple[Mask, bool]:
        if self._now is None:
            self._now = self._compute() if self._next is None else self._next.result()
            self._next = None
        return self._now

    def _compute(self) -> tuple[Mask, bool]:
        return next_mask(self._matcher, self._size, self._ends)
