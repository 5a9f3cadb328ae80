"""A sequence as the scheduler knows it, and its share of a step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tinyllm.engine.page_pool import Key
from tinyllm.engine.sequence import Sequence


@dataclass(eq=False, slots=True)
class Entry:
    """A sequence with what the scheduler knows of it.

    priority: the lower, the earlier.
    suspect: it was in a step that failed, and runs alone until it is known whether it was the cause.
    """

    sequence: Sequence
    priority: int = 0
    salt: bytes = b""
    side: bytes = b""
    """What its keys depend on besides tokens and salt: see `RopeLengths`."""
    read_as: int = 0
    """The length by which its keys turn, unless it is longer."""
    row: int = 0
    """Of the model's recurrent states, while it runs."""
    rank: tuple[float, int] = (0.0, 0)
    """The lower, the earlier: when it came and what its priority is worth, then its number."""
    suspect: bool = False
    reused: int | None = None
    """How many of its tokens were in the cache when it first ran."""
    keys: list[Key] = field(default_factory=list)
    """Keys of its pages that are whole."""
    prefix_keys: list[Key] = field(default_factory=list)
    """Keys of the pages that another may have written for it; made when they are first asked for."""


class Part(NamedTuple):
    """A sequence's share of a step.

    tokens: its next ones. rows: how many of these, from the last, have their logits wanted: 0 for a chunk of a prompt
    that goes on, 1 where a token is to be chosen, more where the log probabilities of the prompt are to be told.
    """

    entry: Entry
    tokens: list[int]
    rows: int
