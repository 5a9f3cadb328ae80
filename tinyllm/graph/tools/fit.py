"""Whether a model fits into memory, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes while it runs.

    Args:
        weights: of all in memory. values: of the most that are alive at once in a step. process: of the program itself.
        by_token, by_sequence: of the cache, for each token and for each sequence however long.
        page_size: tokens that the cache is taken by. context, batch: tokens of a sequence, and sequences at a time.
    """

    weights: int
    values: int
    process: int
    by_token: int
    by_sequence: int
    page_size: int
    context: int
    batch: int

    @property
    def cache(self) -> int:
        """Whole pages, and a row of each recurrent state, for every sequence. Layers with a window keep all tokens,
        too."""
        pages = -(-self.context // self.page_size)
        return self.batch * (pages * self.page_size * self.by_token + self.by_sequence)

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.values + self.process

    def longest(self, memory: int) -> int:
        """The longest context that fits, in whole pages, and no longer than this one; 0: none does."""
        if not self.by_token:
            return self.context if self.total <= memory else 0
        room = (memory - (self.total - self.cache)) // self.batch - self.by_sequence
        return min(self.context, max(0, room // (self.page_size * self.by_token)) * self.page_size)

    def widest(self, memory: int) -> int:
        """The most sequences that fit, and no more than these; 0: not one does."""
        room, each = memory - (self.total - self.cache), self.cache // self.batch
        return min(self.batch, max(0, room) // each) if each else self.batch * (room >= 0)


@dataclass(frozen=True)
class Remedy:
    """What would make a model fit. Each is None where it stays as it is. total: bytes that are needed then."""

    total: int
    bits: int | None = None
    cache_dtype: str | None = None
    context: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Choices:
    """What can be changed. weights: their bytes by bits. by_token: bytes of the cache for each token, by dtype."""

    weights: Mapping[int, int]
    by_token: Mapping[str, int]

    @property
    def bits(self) -> list[int]:
        """The most bits first, which cost the least quality."""
        return sorted(self.weights, reverse=True)


def remedies(need: Need, memory: int, choices: Choices) -> list[Remedy]:
    """Each single change that makes a model fit; where none does, the least that do together: a narrower cache, then
    fewer bits, then one sequence at a time, then a shorter context. Empty: nothing does."""
    return _single(need, memory, choices) or _together(need, memory, choices)


def _single(need: Need, memory: int, choices: Choices) -> list[Remedy]:
    found = []
    for bits in choices.bits:
        if (changed := replace(need, weights=choices.weights[bits])).total <= memory:
            found.append(Remedy(changed.total, bits=bits))
            break
    for dtype, by_token in choices.by_token.items():
        if (changed := replace(need, by_token=by_token)).total <= memory:
            found.append(Remedy(changed.total, cache_dtype=dtype))
            break
    if context := need.longest(memory):
        found.append(Remedy(replace(need, context=context).total, context=context))
    if batch := need.widest(memory):
        found.append(Remedy(replace(need, batch=batch).total, batch=batch))
    return found


def _together(need: Need, memory: int, choices: Choices) -> list[Remedy]:
    narrow = min(choices.by_token, key=lambda dtype: choices.by_token[dtype], default=None)
    narrowed = need if narrow is None else replace(need, by_token=choices.by_token[narrow])
    for batch, context in ((need.batch, need.context), (1, need.context), (1, need.page_size)):
        for bits in (None, *choices.bits):
            weights = need.weights if bits is None else choices.weights[bits]
            changed = replace(narrowed, weights=weights, batch=batch, context=min(context, need.context))
            if changed.total > memory:
                continue
            changed = replace(changed, context=replace(changed, context=need.context).longest(memory))
            return [
                Remedy(
                    changed.total,
                    bits,
                    narrow,
                    None if changed.context == need.context else changed.context,
                    None if batch == need.batch else batch,
                )
            ]
    return []
