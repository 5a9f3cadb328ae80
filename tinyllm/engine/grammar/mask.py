"""Which tokens a grammar allows next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinyllm.engine.grammar.library import first_line
from tinyllm.errors import TinyllmError

if TYPE_CHECKING:
    import llguidance

Mask = NDArray[np.bool_]
"""For each token of the vocabulary whether it may come next, `[V]`."""


def next_mask(matcher: llguidance.LLMatcher, size: int, ends: list[int]) -> tuple[Mask, bool]:
    """The tokens of text that may come next, and whether the reply may end here.

    Args:
        size: of the vocabulary. ends: its tokens that end replies, which are no text.

    Raises:
        TinyllmError: llguidance gave up.
    """
    bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    if matcher.is_error():
        if matcher.get_error().startswith("NoExtension"):  # what must come next cannot be spelled: no token is allowed
            return np.zeros(size, np.bool_), False
        raise TinyllmError(f"grammar: this reply cannot go on: {first_line(matcher.get_error())}")
    mask = np.unpackbits(bits, bitorder="little", count=size).view(np.bool_)
    mask[ends] = False
    return mask, matcher.is_accepting()
