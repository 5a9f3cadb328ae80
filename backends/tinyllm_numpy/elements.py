"""Ops on elements: results are written in place where the reference makes an array at each step."""

from __future__ import annotations

import math

import numpy as np

from tinyllm_numpy.widen import widen


def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum `[*B, D]` of x and y, whose leading axes broadcast."""
    total: np.ndarray = x + y
    return total


def mul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The product `[*B, D]` of x and y, whose leading axes broadcast; y may have one number a row."""
    product: np.ndarray = x * y
    return product


def scale(x: np.ndarray, *, factor: float) -> np.ndarray:
    """`factor * x`, `[*B]`, rounded once."""
    return np.asarray(widen(x) * factor).astype(x.dtype, copy=False)


def softcap(x: np.ndarray, *, cap: float) -> np.ndarray:
    """`cap * tanh(x / cap)`, `[*B]`, rounded once."""
    y = np.asarray(widen(x) / cap)
    np.tanh(y, out=y)
    y *= cap
    return y.astype(x.dtype, copy=False)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))`, `[*B]`, rounded once."""
    y = one_over_sigmoid(np.asarray(widen(x)))
    np.divide(1, y, out=y)
    return y.astype(x.dtype, copy=False)


def swiglu(
    gate: np.ndarray, up: np.ndarray, *, limit: float | None = None, alpha: float = 1.0, up_offset: float = 0.0
) -> np.ndarray:
    """`g / (1 + exp(-alpha g)) * (u + up_offset)`, `[*B, D]`, rounded once: g is the gate within the limit, u is up."""
    g, u = widen(gate), widen(up)
    if limit is not None:
        g, u = np.minimum(g, limit), np.clip(u, -limit, limit)
    if up_offset:
        u = u + up_offset
    passed: np.ndarray = g / one_over_sigmoid(g if alpha == 1 else g * alpha) * u
    return passed.astype(gate.dtype, copy=False)


def geglu(gate: np.ndarray, up: np.ndarray, *, approximate: str = "tanh") -> np.ndarray:
    """`gelu(gate) * up`, `[*B, D]`, rounded once."""
    wide = widen(gate)
    opened = _gelu_by_tanh(wide) if approximate == "tanh" else wide * (_erfc(wide * -math.sqrt(0.5)) / 2)
    passed: np.ndarray = opened * widen(up)
    return passed.astype(gate.dtype, copy=False)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])
"""Number by number, as numpy has none: the exact formula is slow, and models have the other one."""


def _gelu_by_tanh(x: np.ndarray) -> np.ndarray:
    """By a sigmoid: `(1 + tanh(u)) / 2 = sigmoid(2u)`."""
    with np.errstate(over="ignore"):
        y = x * x
        y *= 0.044715
        y += 1
        y *= x
    y *= 2 * math.sqrt(2 / math.pi)
    opened: np.ndarray = x / one_over_sigmoid(y)
    return opened


def one_over_sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 + exp(-x)`. exp of a large number is inf, and what is divided by inf the 0 it should be."""
    y: np.ndarray = np.asarray(np.negative(x))
    with np.errstate(over="ignore"):
        np.exp(y, out=y)
    y += 1
    return y
