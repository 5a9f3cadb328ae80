"""Elementwise ops: silu, gelu, swiglu, add."""

from __future__ import annotations

import math

import mlx.core as mx

from tinyllm_mlx.arrays import exp, widen


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x)."""
    wide = widen(x)
    return (wide / (1 + exp(-wide))).astype(x.dtype)


def gelu(x: mx.array, *, approximate: str = "none") -> mx.array:
    """x * Phi(x), by erf or by the tanh approximation."""
    wide = widen(x)
    if approximate == "tanh":  # (1 + tanh(u)) / 2 = sigmoid(2u), without the cancellation at -1
        u = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
        return (wide / (1 + exp(-2 * u))).astype(x.dtype)
    return (0.5 * wide * (1 + mx.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, rounded once."""
    wide = widen(gate)
    return (wide * widen(up) / (1 + exp(-wide))).astype(gate.dtype)


def add(x: mx.array, y: mx.array) -> mx.array:
    """x + y."""
    return x + y
