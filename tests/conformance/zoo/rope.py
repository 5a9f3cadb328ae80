"""Rotary embeddings, and what goes wrong in them: pairs, positions, precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, wide
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, frequencies_by_length, inverse_frequencies


def rope(
    x: Any,
    *,
    offset: Any = None,
    positions: Any = None,
    inv_freq: Any = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    traditional: bool = False,
    position_scale: float = 1.0,
    mistake: str | None = None,
) -> Any:
    if positions is None:
        positions = np.arange(x.shape[-2])
        if offset is not None and mistake != "offset ignored":
            start = offset if mistake != "offset of the first sequence" else offset.reshape(-1)[:1]
            positions = start.astype(np.int64)[..., None] + positions
    if inv_freq is None:
        turned = x.shape[-1] if dims is None or mistake == "frequencies of the whole head" else dims
        inv_freq = inverse_frequencies(turned, base, scaling)[: (dims or turned) // 2]
    if mistake == "positions wrap at 32768":
        positions = (positions + 2**15) % 2**16 - 2**15
    angles = (positions * position_scale)[..., None].astype(np.float64) * inv_freq
    if mistake == "angles in float16":
        angles = angles.astype(np.float16).astype(np.float64)
    factor = attention_factor(scaling)
    cos, sin = (wave(angles) * (1 if mistake == "yarn factor forgotten" else factor) for wave in (np.cos, np.sin))
    if angles.ndim > 2:  # [*B, L, R] beside x [*B, ..., L, D]
        cos, sin = (a.reshape(*a.shape[:-2], *(1,) * (x.ndim - a.ndim), *a.shape[-2:]) for a in (cos, sin))
    y = turned_by(x, cos, sin, traditional, mistake)
    if mistake == "yarn factor on all dims":
        y[..., 2 * angles.shape[-1] :] *= y.dtype.type(factor)
    return y


def rope_angles(
    positions: Any,
    *,
    inv_freq: Any = None,
    lengths: Any = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    position_scale: float = 1.0,
    log_scale: float = 0.0,
    log_period: int | None = None,
    mistake: str | None = None,
) -> Any:
    factor: Any = 1.0
    if lengths is not None and scaling is not None:
        if mistake == "each position its own length":
            lengths = positions + 1
        if mistake == "one length for all":
            lengths = np.broadcast_to(np.max(lengths, initial=0), np.shape(lengths))
        if mistake == "long from the original length on":
            lengths = lengths + 1
        lengths = np.asarray(lengths, np.float64)
        inv_freq, factor = frequencies_by_length(np, lengths, np.asarray, dims or 2, base, scaling)
    elif inv_freq is None:
        inv_freq = inverse_frequencies(dims or 2, base, scaling)
        if mistake == "exponents half as large":
            inv_freq = inv_freq**0.5
        factor = attention_factor(scaling)
    if log_period is not None:
        periods = positions / log_period
        periods = periods if mistake == "growth at each position" else np.floor(periods)
        factor = factor * (1 + log_scale * np.log1p(np.maximum(periods, 0)))[..., None]
    angles = (positions * position_scale)[..., None].astype(np.float64) * inv_freq
    return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)


def rope_rotate(x: Any, cos: Any, sin: Any, *, traditional: bool = False, mistake: str | None = None) -> Any:
    return turned_by(x, cos, sin, traditional, mistake)


def turned_by(x: Any, cos: Any, sin: Any, traditional: bool, mistake: str | None) -> Any:
    """Pairs (2i, 2i+1) or (i, i+R) turned; dims past 2R as they are."""
    pairs, values = cos.shape[-1], wide(x)
    y = values.copy()
    if mistake == "rest of the head zeroed":
        y[..., 2 * pairs :] = 0
    cos, sin = cos.astype(y.dtype), sin.astype(y.dtype)
    if traditional != (mistake == "styles swapped"):
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    else:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    a, b = values[..., first], values[..., second]
    if mistake == "turned the other way":
        sin = -sin
    y[..., first] = a * cos - b * sin
    y[..., second] = b * cos + (y[..., first] if mistake == "first dim overwritten too early" else a) * sin
    return y.astype(x.dtype)


MUTANTS = (
    Mutant(
        "styles swapped",
        "rope",
        "Pairs (2i, 2i+1) for (i, i+R): weights of one style run with the other give fluent nonsense.",
        rope,
    ),
    Mutant(
        "exponents half as large",
        "rope_angles",
        "base^(-i/dims) for base^(-2i/dims): i counts pairs, not dims.",
        rope_angles,
    ),
    Mutant(
        "each position its own length",
        "rope_angles",
        "Where a prompt is longer than the original context, its first keys too turn as in a long text.",
        rope_angles,
    ),
    Mutant("one length for all", "rope_angles", "The longest sequence of a step decides for the others.", rope_angles),
    Mutant(
        "long from the original length on",
        "rope_angles",
        "A text of just the original length is short still.",
        rope_angles,
    ),
    Mutant(
        "growth at each position",
        "rope_angles",
        "Scores of queries grow by whole periods: within the first one nothing grows.",
        rope_angles,
    ),
    Mutant(
        "turned the other way",
        "rope_rotate",
        "The sign of the sine: norms and distances still look right.",
        rope_rotate,
    ),
    Mutant(
        "first dim overwritten too early",
        "rope_rotate",
        "In place, the second dim of a pair is made from the first one's new value.",
        rope_rotate,
    ),
    Mutant("rest of the head zeroed", "rope_rotate", "Dims past 2R should pass as they are.", rope_rotate),
    Mutant("offset ignored", "rope", "In decoding each token stands at position 0.", rope),
    Mutant("offset of the first sequence", "rope", "One offset for all sequences of a batch.", rope),
    Mutant("positions wrap at 32768", "rope", "Positions in int16: long contexts begin again from below.", rope),
    Mutant("angles in float16", "rope", "At position 2049 float16 no longer tells neighbours apart.", rope),
    Mutant("frequencies of the whole head", "rope", "base^(-2i/D) where only `dims` of D are turned.", rope),
    Mutant("yarn factor on all dims", "rope", "The attention factor belongs to the rotated dims alone.", rope),
    Mutant(
        "yarn factor forgotten",
        "rope",
        "cos and sin without YaRN's attention factor: frequencies are right, scores too small.",
        rope,
    ),
)
