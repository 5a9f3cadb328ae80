"""Elementwise ops: silu, gelu, swiglu, add."""

from __future__ import annotations

import math

import mlx.core as mx

from tinyllm_mlx.arrays import exp, widen


def silu(x: mx.array) -> mx.array:
    """`x sigmoid(x)`, `[*B]`, rounded once."""
    wide = widen(x)
    return (wide / (1 + exp(-wide))).astype(x.dtype)


def gelu(x: mx.array, *, approximate: str = "none") -> mx.array:
    """x times the standard normal distribution function of x, `[*B]`, by erf or by the approximation with tanh."""
    wide = widen(x)
    if approximate == "tanh":  # (1 + tanh(u)) / 2 = sigmoid(2u), without the cancellation at -1
        u = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
        return (wide / (1 + exp(-2 * u))).astype(x.dtype)
    return (0.5 * wide * (1 + mx.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """`silu(gate) * up`, `[*B, D]`, rounded once."""
    wide = widen(gate)
    # not the product of both first, which overflows
    return (wide / (1 + exp(-wide)) * widen(up)).astype(gate.dtype)


def add(x: mx.array, y: mx.array) -> mx.array:
    """The sum `[*B, D]` of x and y, whose leading axes broadcast."""
    return x + y
