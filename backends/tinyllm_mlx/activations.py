"""Activations: silu, gelu, sigmoid, and the gated ones."""

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
    return _gelu(widen(x), approximate).astype(x.dtype)


def _gelu(wide: mx.array, approximate: str) -> mx.array:
    if approximate == "tanh":  # (1 + tanh(u)) / 2 = sigmoid(2u), without the cancellation at -1
        u = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
        return wide / (1 + exp(-2 * u))
    return 0.5 * wide * (1 + mx.erf(wide * math.sqrt(0.5)))


def sigmoid(x: mx.array) -> mx.array:
    """`1 / (1 + exp(-x))`, `[*B]`, rounded once."""
    return (1 / (1 + exp(-widen(x)))).astype(x.dtype)


def swiglu(
    gate: mx.array, up: mx.array, *, limit: float | None = None, alpha: float = 1.0, up_offset: float = 0.0
) -> mx.array:
    """`g * sigmoid(alpha * g) * (u + up_offset)`, `[*B, D]`, rounded once: g is the gate within the limit, u is up."""
    g, u = widen(gate), widen(up)
    if limit is not None:
        g, u = mx.minimum(g, limit), mx.clip(u, -limit, limit)
    if up_offset:
        u = u + up_offset
    # not the product of both first, which overflows
    return (g / (1 + exp(-g if alpha == 1 else -alpha * g)) * u).astype(gate.dtype)


def geglu(gate: mx.array, up: mx.array, *, approximate: str = "tanh") -> mx.array:
    """`gelu(gate) * up`, `[*B, D]`, rounded once."""
    return (_gelu(widen(gate), approximate) * widen(up)).astype(gate.dtype)
