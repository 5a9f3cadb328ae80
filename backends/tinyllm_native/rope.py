"""rope_angles and rope_rotate."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from tinyllm.plugins import RopeScaling, attention_factor, growth_exponents, inverse_frequencies
from tinyllm_native.arrays import contiguous, int32, of_dtype
from tinyllm_native.library import run


class Frequencies(NamedTuple):
    """What the library is told of frequencies, and of those in sequences longer than `limit`.

    frequencies: radians per position of each pair, float64 `[dims / 2]`. others: those of long sequences, or, where
    `growth` is not 0, the powers of what grows with the length; None: all are alike.
    """

    frequencies: np.ndarray
    others: np.ndarray | None = None
    limit: int = 0
    factor: float = 1.0
    other_factor: float = 1.0
    growth: float = 0.0

    @property
    def numbers(self) -> list[float]:
        """In the library's order."""
        return [self.factor, self.other_factor, self.growth]


def frequencies(
    inv_freq: np.ndarray | None, dims: int | None, base: float, scaling: RopeScaling | None, position_scale: float
) -> Frequencies:
    """Those of the settings of `rope_angles`."""
    if inv_freq is not None:
        return Frequencies(inv_freq.astype(np.float64) * position_scale)
    if scaling is None or scaling.original_max_position is None or not scaling.by_length:
        given = inverse_frequencies(dims or 0, base, scaling)
        return Frequencies(given * position_scale, factor=attention_factor(scaling))
    limit = scaling.original_max_position
    short, long = (inverse_frequencies(dims or 0, base, scaling, n) * position_scale for n in (limit, limit + 1))
    of_short, of_long = (attention_factor(scaling, length) for length in (limit, limit + 1))
    if scaling.kind == "dynamic":
        return Frequencies(short, growth_exponents(dims or 0), limit, of_short, of_long, scaling.factor)
    return Frequencies(short, long, limit, of_short, of_long)


def rope_angles(
    positions: np.ndarray,
    *,
    inv_freq: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    position_scale: float = 1.0,
    log_scale: float = 0.0,
    log_period: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin `[*P, R]` in float32 of `position * position_scale * inv_freq` radians, times the attention factor,
    and what grows with the logarithm of the position. Angles are float64."""
    turns = frequencies(inv_freq, dims, base, scaling, position_scale)
    pairs = len(turns.frequencies)
    cos, sin = (np.empty((*positions.shape, pairs), np.float32) for _ in range(2))
    lengths = None if lengths is None else int32(lengths)
    arrays = [int32(positions), turns.frequencies, cos, sin, lengths, turns.others]
    run("rope_angles", arrays, [positions.size, pairs, turns.limit, log_period or 1], [*turns.numbers, log_scale])
    return cos, sin


def rope_rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, traditional: bool = False) -> np.ndarray:
    """x `[*B, D]` with each pair (a, b) of its first 2R dims replaced by `(a cos - b sin, b cos + a sin)`."""
    pairs, dim = cos.shape[-1], x.shape[-1]
    x, y = contiguous(x), np.empty(x.shape, x.dtype)
    heads, angles = _shared(x.shape[:-1], cos.shape[:-1])
    if angles is None:
        cos, sin = (np.broadcast_to(a, (*x.shape[:-1], pairs)) for a in (cos, sin))
        heads = 1
    cos, sin = (contiguous(a.astype(np.float32, copy=False)) for a in (cos, sin))
    rows, stride = prod(x.shape[:-1]) // max(heads, 1), heads * dim * x.itemsize
    sizes = [rows, heads * dim, stride, stride, of_dtype(x), heads, dim, pairs, int(traditional), 4 * pairs]
    run("rope_rotate", [x, cos, sin, y], sizes)
    return y


def _shared(lead: tuple[int, ...], of_angles: tuple[int, ...]) -> tuple[int, int | None]:
    """How many neighbouring rows of x share a row of angles, and the number of those; None where it is not so."""
    of_angles = (*(1,) * (len(lead) - len(of_angles)), *of_angles)
    for split in range(len(lead) + 1):
        if of_angles == (*lead[:split], *(1,) * (len(lead) - split)):
            return prod(lead[split:]), prod(lead[:split])
    return 1, None
