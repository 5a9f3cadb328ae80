"""Ops with recurrent states, whose rows are written in place."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from tinyllm.plugins import sequences
from tinyllm_mlx.arrays import exp, row_sums, widen

EPS = 1e-6
"""Added to the square sums that queries and keys are divided by the roots of."""


def short_conv(
    x: mx.array,
    state: mx.array,
    weight: mx.array,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    state_rows: np.ndarray,
    *,
    bias: mx.array | None = None,
    activation: str = "none",
) -> tuple[mx.array, mx.array]:
    """A causal convolution `[T, C]` of each channel of x, and the state `[P, C, W - 1]`, which is written to."""
    channels, width = weight.shape
    factors, parts = widen(weight).T, []
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        before = mx.zeros((width - 1, channels)) if begins else widen(state[row]).T
        seen = mx.concatenate([before, widen(x[first:last])])
        length = last - first
        sums = seen[:length] * factors[0]
        for place in range(1, width):
            sums = sums + seen[place : place + length] * factors[place]
        if bias is not None:
            sums = sums + widen(bias)
        parts.append(sums / (1 + exp(-sums)) if activation == "silu" else sums)
        state[row] = seen[length:].T
    y = mx.concatenate(parts) if parts else mx.zeros(x.shape)
    return y.astype(x.dtype), state


def gated_delta(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    a: mx.array,
    b: mx.array,
    state: mx.array,
    a_log: mx.array,
    dt_bias: mx.array,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    state_rows: np.ndarray,
    *,
    tiled: bool = False,
) -> tuple[mx.array, mx.array]:
    """The gated delta rule `[T, Hv, Dv]`, token by token, and the state `[P, Hv, Dk, Dv]`, which is written to."""
    if 0 in (*q.shape, *v.shape):
        return mx.zeros(v.shape, v.dtype), state
    groups = v.shape[1] // q.shape[1]
    q, k = (_unit(widen(each)) for each in (q, k))
    q, k = (
        (mx.tile(each, (1, groups, 1)) if tiled else mx.repeat(each, groups, axis=1))[:, :, None, :] for each in (q, k)
    )
    q, values = q * q.shape[-1] ** -0.5, widen(v)[:, :, None, :]
    wide = widen(a) + widen(dt_bias)
    steps = mx.maximum(wide, 0) + mx.log1p(exp(-mx.abs(wide)))
    keep = exp(-exp(widen(a_log)) * steps)[:, :, None, None]
    small = exp(-mx.abs(widen(b)))
    learn = (mx.where(b < 0, small, 1.0) / (1 + small))[:, :, None, None]
    outputs = []
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        s = mx.zeros(state.shape[1:]) if begins else widen(state[row])
        for t in range(first, last):
            s = s * keep[t]
            s = s + k[t].swapaxes(-1, -2) * ((values[t] - k[t] @ s) * learn[t])
            outputs.append((q[t] @ s).swapaxes(0, 1))
        state[row] = s
    return mx.concatenate(outputs).astype(v.dtype), state


def _unit(x: mx.array) -> mx.array:
    """Each head of `[T, H, D]` divided by its length."""
    return x / mx.sqrt(row_sums(x * x) + EPS)
