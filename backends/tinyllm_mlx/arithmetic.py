"""Sums, products and caps of elements."""

from __future__ import annotations

import mlx.core as mx

from tinyllm_mlx.arrays import widen


def add(x: mx.array, y: mx.array) -> mx.array:
    """The sum `[*B, D]` of x and y, whose leading axes broadcast."""
    return x + y


def mul(x: mx.array, y: mx.array) -> mx.array:
    """The product `[*B, D]` of x and y, whose leading axes broadcast; y may have one number a row."""
    return x * y


def scale(x: mx.array, *, factor: float) -> mx.array:
    """`factor * x`, `[*B]`, rounded once."""
    return (widen(x) * factor).astype(x.dtype)


def softcap(x: mx.array, *, cap: float) -> mx.array:
    """`cap * tanh(x / cap)`, `[*B]`, rounded once."""
    return (cap * mx.tanh(widen(x) / cap)).astype(x.dtype)
