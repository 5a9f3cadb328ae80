"""Kernels that are right, though they add, scale and place numbers in another way than most: what the kit must let
through."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.conformance.zoo.flash import Flash
from tests.conformance.zoo.mutant import Mutant, wide

LOG2_E = 1 / math.log(2)

Sum = Callable[[Any], Any]
"""The sum over the last axis, which stays, of length 1."""


def left_to_right(terms: Any) -> Any:
    """One term after the other."""
    return np.add.accumulate(terms, axis=-1)[..., -1:] if terms.shape[-1] else terms.sum(axis=-1, keepdims=True)


def right_to_left(terms: Any) -> Any:
    """One term after the other, from the last on."""
    return left_to_right(terms[..., ::-1])


def pairwise(terms: Any) -> Any:
    """Each half by halves."""
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        terms = np.concatenate([terms[..., :half] + terms[..., half : 2 * half], terms[..., 2 * half :]], axis=-1)
    return terms if terms.shape[-1] else terms.sum(axis=-1, keepdims=True)


def by_blocks(terms: Any, size: int = 32) -> Any:
    """The sums of blocks, and then of these, each from left to right."""
    return left_to_right(left_to_right(_folded(terms, size))[..., 0])


def by_lanes(lanes: int, terms: Any) -> Any:
    """As a vector unit does: each lane adds every so many terms, and the lanes are added last."""
    return left_to_right(left_to_right(np.swapaxes(_folded(terms, lanes), -1, -2))[..., 0])


def compensated(terms: Any) -> Any:
    """With what each addition loses carried to the next (Kahan 1965)."""
    total = np.zeros(terms.shape[:-1], terms.dtype)
    lost = total
    for n in range(terms.shape[-1]):
        term = terms[..., n] - lost
        grown = total + term
        lost, total = np.where(np.isfinite(grown), (grown - total) - term, 0), grown
    return total[..., None]


def _folded(terms: Any, size: int) -> Any:
    """The last axis as blocks of a size, the last one filled with zeros."""
    count = -(-terms.shape[-1] // size)
    filled = np.zeros((*terms.shape[:-1], count * size), terms.dtype)
    filled[..., : terms.shape[-1]] = terms
    return filled.reshape(*terms.shape[:-1], count, size)


def linear_by_sums(add: Sum, x: Any, weight: Any, *, bias: Any = None) -> Any:
    """All products, and then their sums, a few outputs at a time."""
    values, rows = wide(x), wide(weight)
    y = np.empty((*x.shape[:-1], len(rows)), values.dtype)
    step = max(1, 2_000_000 // max(1, x.size))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        y[..., part] = add(values[..., None, :] * rows[part])[..., 0]
    return (y if bias is None else y + wide(bias)).astype(x.dtype)


def linear_by_outer_products(x: Any, weight: Any, *, bias: Any = None) -> Any:
    """A column of x times a column of the weight after the other, the bias first."""
    values, columns = wide(x), np.ascontiguousarray(wide(weight).T)
    y = np.zeros((*x.shape[:-1], len(weight)), values.dtype) + (0 if bias is None else wide(bias))
    for n, column in enumerate(columns):
        y += values[..., n, None] * column
    return y.astype(x.dtype)


def linear_by_column_blocks(x: Any, weight: Any, *, bias: Any = None) -> Any:
    """Blocks of 48 columns, the last one first, and the bias in the middle of the outputs' sums."""
    values, rows = wide(x), wide(weight)
    y = np.zeros((*x.shape[:-1], len(rows)), values.dtype)
    for start in reversed(range(0, x.shape[-1], 48)):
        y = y + values[..., start : start + 48] @ rows[:, start : start + 48].T
    return np.asfortranarray(y if bias is None else wide(bias) + y).astype(x.dtype)


def rms_norm_by_sums(add: Sum, x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
    """One over the root first, and that times the weight."""
    values = wide(x)
    inverse = 1 / np.sqrt(add(values * values) / max(1, x.shape[-1]) + values.dtype.type(eps))
    return (values * (inverse * wide(weight))).astype(x.dtype)


def rms_norm_by_the_largest(x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
    """Each row divided by its largest number, where that is above 1, so that no square is too large."""
    values = wide(x)
    most = np.max(np.abs(values), axis=-1, keepdims=True, initial=1)
    most = np.where(np.isfinite(most), most, 1)
    values = values / most
    mean = left_to_right(values * values) / max(1, x.shape[-1])
    return (values / np.sqrt(mean + eps / most / most) * wide(weight)).astype(x.dtype)


def softmax_by_a_larger_number(x: Any, *, axis: int = -1) -> Any:
    """Shifted by a whole number above the largest of a row: any number near that will do."""
    values = wide(x)
    top = np.ceil(np.max(values, axis=axis, keepdims=True, initial=-np.inf)) + 8
    weights = np.exp(values - top)
    return (weights / weights.sum(axis=axis, keepdims=True)).astype(x.dtype)


def softmax_by_sums(add: Sum, x: Any, *, axis: int = -1) -> Any:
    """The sum in an order of its own."""
    values = np.moveaxis(wide(x), axis, -1)
    weights = np.exp(values - np.max(values, axis=-1, keepdims=True, initial=-np.inf))
    return np.moveaxis(weights / add(weights), -1, axis).astype(x.dtype)


def softmax_by_the_logarithm(x: Any, *, axis: int = -1) -> Any:
    """The logarithm of the sum is subtracted from the scores, and nothing is divided."""
    values = wide(x)
    top = np.max(values, axis=axis, keepdims=True, initial=-np.inf)
    shifted = values - top
    return np.exp(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).astype(x.dtype)


def softmax_online(x: Any, *, axis: int = -1) -> Any:
    """Powers of two, one pass for the maximum and the sum, which moves along with it, in blocks of 100."""
    values = np.moveaxis(wide(x), axis, -1)
    unit = values.dtype.type(LOG2_E)
    top = np.full((*values.shape[:-1], 1), -np.inf, values.dtype)
    total = np.zeros_like(top)
    for start in range(0, values.shape[-1], 100):
        block = values[..., start : start + 100]
        largest = np.maximum(top, block.max(axis=-1, keepdims=True))
        low = np.where(largest == -np.inf, 0, largest)  # nothing yet but scores that are hidden
        total = total * np.exp2((top - low) * unit) + left_to_right(np.exp2((block - low) * unit))
        top = largest
    return np.moveaxis(np.exp2((values - top) * unit) * (1 / total), -1, axis).astype(x.dtype)


def silu_by_tanh(x: Any) -> Any:
    """The sigmoid as half of 1 + tanh(x / 2)."""
    values = wide(x)
    half = values * values.dtype.type(0.5)
    return np.asarray(half + half * np.tanh(half)).astype(x.dtype)


def fused_angles(x: Any, cos: Any, sin: Any, *, traditional: bool = False) -> Any:
    """Pairs as complex numbers, in the outputs' own memory: a slice of a larger array."""
    values, half = wide(x), cos.shape[-1]
    first, second = (
        (values[..., 0 : 2 * half : 2], values[..., 1 : 2 * half : 2])
        if traditional
        else (values[..., :half], values[..., half : 2 * half])
    )
    turned = (first + 1j * second) * (cos + 1j * sin)
    larger = np.zeros((*turned.shape[:-1], x.shape[-1] + 3), x.dtype)
    larger[..., : x.shape[-1]] = x
    y = larger[..., : x.shape[-1]]
    places = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if traditional else (slice(0, half), slice(half, 2 * half))
    for place, part in zip(places, (turned.real, turned.imag), strict=True):
        y[..., place] = part.astype(x.dtype)
    return y


def into_q(q: Any, k: Any, factor: float) -> Any:
    """The scale as a factor of the queries."""
    return q * q.dtype.type(factor), k, 1


def into_k(q: Any, k: Any, factor: float) -> Any:
    """The scale as a factor of the keys."""
    return q, k * k.dtype.type(factor), 1


def into_both(q: Any, k: Any, factor: float) -> Any:
    """The root of the scale as a factor of both."""
    root = q.dtype.type(abs(factor) ** 0.5)
    return q * root, k * root, math.copysign(1, factor) if factor else 0


def in_a_larger_one(y: Any) -> Any:
    """As a slice of a larger array."""
    larger = np.full(tuple(n + 2 for n in y.shape), 7, y.dtype)
    inside = larger[tuple(slice(1, -1) for _ in y.shape)]
    inside[...] = y
    return inside


def by_matrix_unit(scores: Any, _: Any) -> Any:
    """Scores as they are; what tells is the order of the axes in memory."""
    return np.asfortranarray(scores)


_ATTENTION = {
    "one key at a time": Flash(block=1, inputs=into_q),
    "blocks of 3, backwards": Flash(block=3, backwards=True, output=np.asfortranarray),
    "blocks of 64, powers of two": Flash(block=64, unit=LOG2_E, inputs=into_q),
    "blocks of 512, the root of the scale in q and k": Flash(block=512, inputs=into_both, output=in_a_larger_one),
    "blocks of 100, backwards, powers of two, the scale in k": Flash(
        block=100, backwards=True, unit=LOG2_E, inputs=into_k, scores=by_matrix_unit
    ),
}
_SUMS: dict[str, Sum] = {
    "left to right": left_to_right,
    "right to left": right_to_left,
    "pairwise": pairwise,
    "by blocks": by_blocks,
    "in 16 lanes": partial(by_lanes, 16),
    "compensated": compensated,
}


def _named(op: str, name: str, function: Callable[..., Any]) -> Mutant:
    return Mutant(name, op, name, function)


UNUSUAL = (
    *(_named("linear", name, partial(linear_by_sums, add)) for name, add in _SUMS.items()),
    _named("linear", "by outer products", linear_by_outer_products),
    _named("linear", "by blocks of columns", linear_by_column_blocks),
    *(_named("rms_norm", name, partial(rms_norm_by_sums, _SUMS[name])) for name in ("left to right", "compensated")),
    _named("rms_norm", "by the largest", rms_norm_by_the_largest),
    *(_named("softmax", name, partial(softmax_by_sums, _SUMS[name])) for name in ("left to right", "right to left")),
    _named("softmax", "by a larger number", softmax_by_a_larger_number),
    _named("softmax", "by the logarithm", softmax_by_the_logarithm),
    _named("softmax", "online", softmax_online),
    _named("silu", "by tanh", silu_by_tanh),
    _named("rope_rotate", "as complex numbers", fused_angles),
    *(_named("sdpa", name, flash.kernel("sdpa")) for name, flash in _ATTENTION.items()),
    *(
        _named(op, "blocks of 3, backwards", _ATTENTION["blocks of 3, backwards"].kernel(op))
        for op in ("gqa", "paged_attention")
    ),
)
"""They make no mistake; the name says what is unusual."""
