"""Ops with recurrent states, whose rows are written in place."""

from __future__ import annotations

from math import sqrt

import numpy as np

from tinyllm.plugins import sequences
from tinyllm_numpy.elements import one_over_sigmoid
from tinyllm_numpy.widen import widen

EPS = 1e-6
"""Added to the square sums that queries and keys are divided by the roots of."""


def short_conv(
    x: np.ndarray,
    state: np.ndarray,
    weight: np.ndarray,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    state_rows: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    activation: str = "none",
) -> tuple[np.ndarray, np.ndarray]:
    """A causal convolution `[T, C]` of each channel of x, and the state `[P, C, W - 1]`, which is written to unless it
    is read-only."""
    state = state if state.flags.writeable else state.copy()
    factors, y = widen(weight).T, np.empty(x.shape, x.dtype)
    width = len(factors)
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        before = np.zeros((width - 1, x.shape[1]), factors.dtype) if begins else widen(state[row].T)
        seen = np.concatenate([before, widen(x[first:last])])
        length = last - first
        sums = seen[:length] * factors[0]
        for place in range(1, width):
            sums += seen[place : place + length] * factors[place]
        if bias is not None:
            sums += widen(bias)
        y[first:last] = sums / one_over_sigmoid(sums) if activation == "silu" else sums
        state[row] = seen[length:].T
    return y, state


def gated_delta(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    state: np.ndarray,
    a_log: np.ndarray,
    dt_bias: np.ndarray,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    state_rows: np.ndarray,
    *,
    tiled: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The gated delta rule `[T, Hv, Dv]`, token by token, and the state `[P, Hv, Dk, Dv]`, which is written to unless
    it is read-only."""
    state = state if state.flags.writeable else state.copy()
    heads, value_heads, dim = q.shape[1], v.shape[1], q.shape[2]
    of_value = np.arange(value_heads) % heads if tiled else np.arange(value_heads) // (value_heads // heads)
    q, k = (_unit(widen(each))[:, of_value] for each in (q, k))
    q *= 1 / sqrt(max(dim, 1))
    keep = np.exp(-np.exp(widen(a_log)) * np.logaddexp(0, widen(a) + widen(dt_bias)))[:, :, None, None]
    learn = (1 / one_over_sigmoid(widen(b)))[:, :, None, None]
    values, y = widen(v)[:, :, None, :], np.empty(v.shape, v.dtype)
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        s = np.zeros(state.shape[1:], q.dtype) if begins else state[row].astype(q.dtype)
        for t in range(first, last):
            s *= keep[t]
            s += k[t][:, :, None] * ((values[t] - k[t][:, None, :] @ s) * learn[t])
            y[t] = (q[t][:, None, :] @ s)[:, 0]
        state[row] = s
    return y, state


def _unit(x: np.ndarray) -> np.ndarray:
    """Each head of `[T, H, D]` divided by its length."""
    unit: np.ndarray = x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + EPS)
    return unit
