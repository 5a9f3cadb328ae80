"""rope_angles and rope_rotate."""

from __future__ import annotations

from math import prod

import numpy as np

from tinyllm.plugins import RopeScaling, attention_factor, inverse_frequencies
from tinyllm_native.arrays import contiguous, int32, of_dtype
from tinyllm_native.library import run


def frequencies(
    inv_freq: np.ndarray | None, dims: int | None, base: float, scaling: RopeScaling | None, position_scale: float
) -> np.ndarray:
    """Radians per position of each pair, float64 `[dims / 2]`."""
    given = inverse_frequencies(dims or 0, base, scaling) if inv_freq is None else inv_freq.astype(np.float64)
    return given * position_scale


def rope_angles(
    positions: np.ndarray,
    *,
    inv_freq: np.ndarray | None = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    position_scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin `[*P, R]` in float32 of `position * position_scale * inv_freq` radians, times the attention factor.
    Angles are float64."""
    turns = frequencies(inv_freq, dims, base, scaling, position_scale)
    cos, sin = (np.empty((*positions.shape, len(turns)), np.float32) for _ in range(2))
    run("rope_angles", [int32(positions), turns, cos, sin], [positions.size, len(turns)], [attention_factor(scaling)])
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
