"""Rows of small integers as bit streams, over the array namespace of references."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

WORD = 32
"""Bits of the words that a stream is cut into."""


def pack(xp: Any, values: Any, bits: int) -> Any:
    """Integers `[..., K]` below `2**bits` to a little-endian bit stream per row: uint32 `[..., K * bits / 32]`.

    The pattern of value borders in words repeats, so one repetition is worked out and all are done at once. It is
    computed in int64, as not every library shifts uint32.
    """
    count = WORD // gcd(bits, WORD)  # values of one repetition, which fill `words` words
    words = count * bits // WORD
    chunks = xp.reshape(xp.astype(values, xp.int64), (*values.shape[:-1], values.shape[-1] // count, count))
    packed = [xp.zeros(chunks.shape[:-1], dtype=xp.int64) for _ in range(words)]
    for i in range(count):
        word, shift = divmod(i * bits, WORD)
        value = chunks[..., i]
        packed[word] = xp.bitwise_or(packed[word], xp.bitwise_left_shift(value, xp.asarray(shift, dtype=xp.int64)))
        if shift + bits > WORD:
            spill = xp.bitwise_right_shift(value, xp.asarray(WORD - shift, dtype=xp.int64))
            packed[word + 1] = xp.bitwise_or(packed[word + 1], spill)
    stream = xp.bitwise_and(xp.stack(packed, axis=-1), xp.asarray(2**WORD - 1, dtype=xp.int64))
    return xp.reshape(xp.astype(stream, xp.uint32), (*values.shape[:-1], values.shape[-1] * bits // WORD))


def unpack(xp: Any, words: Any, bits: int, count: int) -> Any:
    """The inverse of `pack`: uint32 `[..., K * bits / 32]` to uint32 `[..., K]`."""
    start = np.arange(count) * bits
    word, shift = start // WORD, start % WORD
    spills = shift + bits > WORD
    low = xp.bitwise_right_shift(xp.take(words, xp.asarray(word), axis=-1), xp.asarray(shift.astype(np.uint32)))
    if spills.any():
        following = xp.take(words, xp.asarray(np.where(spills, word + 1, word)), axis=-1)
        high = xp.bitwise_left_shift(following, xp.asarray((WORD - shift).astype(np.uint32) % WORD))
        keep = xp.asarray(np.where(spills, 2**WORD - 1, 0).astype(np.uint32))
        low = xp.bitwise_or(low, xp.bitwise_and(high, keep))
    return xp.bitwise_and(low, xp.asarray(2**bits - 1, dtype=xp.uint32))


def per_column(xp: Any, groups: Any, group_size: int) -> Any:
    """Numbers of groups `[..., G]` repeated for each of their columns `[..., G * group_size]`."""
    spread = xp.broadcast_to(xp.expand_dims(groups, axis=-1), (*groups.shape, group_size))
    return xp.reshape(spread, (*groups.shape[:-1], groups.shape[-1] * group_size))
