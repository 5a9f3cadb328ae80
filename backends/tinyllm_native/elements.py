"""Ops on elements."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from tinyllm_native.arrays import contiguous, of_dtype, rows_of
from tinyllm_native.library import run


def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum `[*B, D]` of x and y, whose leading axes broadcast."""
    return _of_two("add", x, y)


def mul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The product `[*B, D]` of x and y, whose leading axes broadcast; y may have one number a row."""
    return _of_two("mul", x, y)


def scale(x: np.ndarray, *, factor: float) -> np.ndarray:
    """`factor * x`, `[*B]`, rounded once."""
    return _of_one("scale", x, [factor])


def softcap(x: np.ndarray, *, cap: float) -> np.ndarray:
    """`cap * tanh(x / cap)`, `[*B]`, rounded once."""
    return _of_one("softcap", x, [cap])


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))`, `[*B]`, rounded once."""
    return _of_one("sigmoid", x)


def silu(x: np.ndarray) -> np.ndarray:
    """`x / (1 + exp(-x))`, `[*B]`, rounded once."""
    return _of_one("silu", x)


def gelu(x: np.ndarray, *, approximate: str = "none") -> np.ndarray:
    """x times the standard normal distribution function of x, `[*B]`, exact or by tanh, rounded once."""
    return _of_one("gelu", x, gelu_numbers(approximate))


def swiglu(
    gate: np.ndarray, up: np.ndarray, *, limit: float | None = None, alpha: float = 1.0, up_offset: float = 0.0
) -> np.ndarray:
    """`g * sigmoid(alpha * g) * (u + up_offset)`, `[*B, D]`, rounded once: g is the gate within the limit, u is up."""
    return _of_two("swiglu", gate, up, swiglu_numbers(limit, alpha, up_offset))


def geglu(gate: np.ndarray, up: np.ndarray, *, approximate: str = "tanh") -> np.ndarray:
    """`gelu(gate) * up`, `[*B, D]`, rounded once."""
    return _of_two("geglu", gate, up, gelu_numbers(approximate))


def gelu_numbers(approximate: str) -> list[float]:
    """What the library reads of the attributes of `gelu` and `geglu`."""
    return [float(approximate == "tanh")]


def swiglu_numbers(limit: float | None, alpha: float, up_offset: float) -> list[float]:
    """What the library reads of the attributes of `swiglu`."""
    return [inf if limit is None else limit, alpha, up_offset]


def _of_one(op: str, x: np.ndarray, numbers: Sequence[float] = ()) -> np.ndarray:
    """As one row: the library gives each thread some of its columns."""
    x, y = contiguous(x), np.empty(x.shape, x.dtype)
    run(op, [x, y], [1, x.size, x.nbytes, x.nbytes, of_dtype(x)], numbers)
    return y


def _of_two(op: str, x: np.ndarray, y: np.ndarray, numbers: Sequence[float] = ()) -> np.ndarray:
    shape, one_a_row = np.broadcast_shapes(x.shape, y.shape), y.shape[-1] != x.shape[-1]
    x = contiguous(np.broadcast_to(x, shape))
    y = contiguous(np.broadcast_to(y, (*shape[:-1], y.shape[-1])))
    z = np.empty(shape, x.dtype)
    strides = [a.itemsize * a.shape[-1] for a in (x, y, z)]
    run(op, [x, y, z], [rows_of(z), shape[-1], *strides, of_dtype(z), int(one_a_row)], numbers)
    return z
