"""Ops with recurrent states, whose rows are written in place."""

from __future__ import annotations

from math import prod

import numpy as np

from tinyllm_native.arrays import contiguous, int32, of_dtype
from tinyllm_native.library import run


def _own(state: np.ndarray) -> np.ndarray:
    """The state, or a copy of it where it is read-only or its numbers are no neighbours."""
    return state if state.flags.writeable and state.flags.c_contiguous else state.copy()


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
    x, state, weight = contiguous(x), _own(state), contiguous(weight)
    y, stride = np.empty(x.shape, x.dtype), x.itemsize * x.shape[1]
    sizes = [*x.shape, weight.shape[1], len(kv_len), stride, stride, state.itemsize * prod(state.shape[1:])]
    indices = [int32(each) for each in (q_start, kv_len, state_rows)]
    arrays = [x, state, weight, *indices, None if bias is None else contiguous(bias), y]
    run("short_conv", arrays, [*sizes, of_dtype(x), of_dtype(state), int(activation == "silu")])
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
    rows, of_heads = [contiguous(each) for each in (q, k, v, a, b)], [contiguous(each) for each in (a_log, dt_bias)]
    state, y = _own(state), np.empty(v.shape, v.dtype)
    of_a_row = prod(state.shape[1:])
    sizes = [len(q), of_a_row, q.shape[1], v.shape[1], q.shape[2], v.shape[2], len(kv_len)]
    sizes += [each.itemsize * prod(each.shape[1:]) for each in (*rows, y)]
    sizes += [state.itemsize * of_a_row, *(of_dtype(each) for each in (y, state, *of_heads)), int(tiled)]
    run("gated_delta", [*rows, state, *of_heads, *(int32(each) for each in (q_start, kv_len, state_rows)), y], sizes)
    return y, state
