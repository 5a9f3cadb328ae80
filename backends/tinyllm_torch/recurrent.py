"""Ops with recurrent states, whose rows are written in place."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tinyllm.plugins import sequences
from tinyllm_torch.backend import own
from tinyllm_torch.widen import narrow, widen

Tensor = torch.Tensor

EPS = 1e-6
"""Added to the square sums that queries and keys are divided by the roots of."""
CHUNK = 64
"""Tokens that one solution of a triangle takes."""
FEW = 8
"""Up to so many tokens are gone through one by one."""

LEAST = -1e4
"""Of the logarithm of what is kept: differences of infinities would be no numbers."""


def short_conv(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    state_rows: np.ndarray,
    *,
    bias: Tensor | None = None,
    activation: str = "none",
) -> tuple[Tensor, Tensor]:
    """A causal convolution `[T, C]` of each channel of x, and the state `[P, C, W - 1]`, which is written to unless it
    lies on a read-only numpy array."""
    state, factors, y = own(state), widen(weight).t().contiguous(), torch.empty_like(x)
    channels, width = weight.shape
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        before = factors.new_zeros(width - 1, channels) if begins else narrow(state[row].t(), factors.dtype)
        seen = torch.cat([before, widen(x[first:last])])
        length = last - first
        sums = seen[:length] * factors[0]
        for place in range(1, width):
            sums.addcmul_(seen[place : place + length], factors[place])
        if bias is not None:
            sums += widen(bias)
        y[first:last] = F.silu(sums) if activation == "silu" else sums
        state[row] = seen[length:].t()
    return y, state


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    q_start: np.ndarray,
    kv_len: np.ndarray,
    state_rows: np.ndarray,
    *,
    tiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gated delta rule `[T, Hv, Dv]`, and the state `[P, Hv, Dk, Dv]`, which is written to unless it lies on a
    read-only numpy array."""
    state, y, groups = own(state), torch.empty_like(v), v.shape[1] // q.shape[1]
    # head by head: [Hv, T, D]
    q, k = (_unit(widen(each)) for each in (q, k))
    q, k = (
        (each.repeat(1, groups, 1) if tiled else each.repeat_interleave(groups, 1)).transpose(0, 1) for each in (q, k)
    )
    q = q * max(q.shape[2], 1) ** -0.5
    steps = F.softplus(widen(a) + widen(dt_bias), threshold=50)
    forget = (-widen(a_log).exp() * steps).t().double().clamp(min=LEAST)
    learn, values = widen(b).sigmoid().t().unsqueeze(-1), widen(v).transpose(0, 1)
    for first, last, row, begins in sequences(q_start, kv_len, state_rows):
        s = q.new_zeros(state.shape[1:]) if begins else state[row].to(q.dtype, copy=True)
        size = 1 if last - first <= FEW else CHUNK
        for start in range(first, last, size):
            chunk = slice(start, min(start + size, last))
            given = (each[:, chunk] for each in (q, k, values, forget, learn))
            y[chunk] = (_one if size == 1 else _several)(s, *given).transpose(0, 1)
        state[row] = s
    return y, state


def _one(s: Tensor, q: Tensor, k: Tensor, v: Tensor, forget: Tensor, learn: Tensor) -> Tensor:
    """A token: the state `[Hv, Dk, Dv]` is changed in place."""
    s *= forget.exp().to(s.dtype).unsqueeze(-1)
    s.baddbmm_(k.mT, (v - k @ s) * learn)
    return q @ s


def _several(s: Tensor, q: Tensor, k: Tensor, v: Tensor, forget: Tensor, learn: Tensor) -> Tensor:
    """A chunk at once, by what each of its tokens learns, u: that is less what those before it have learnt, which is a
    triangular system."""
    since = forget.cumsum(-1)  # in float64, as differences of it are told apart below
    between = (since.unsqueeze(-1) - since.unsqueeze(-2)).tril().exp().tril().to(s.dtype)
    grown = since.exp().to(s.dtype).unsqueeze(-1)
    system = (k @ k.mT * between * learn).tril(-1)
    u = torch.linalg.solve_triangular(system, learn * (v - grown * (k @ s)), upper=False, unitriangular=True)
    y: Tensor = grown * (q @ s) + (q @ k.mT * between) @ u
    s *= grown[:, -1:]
    s.baddbmm_(k.mT * between[:, -1:], u)
    return y


def _unit(x: Tensor) -> Tensor:
    """Each head of `[T, H, D]` divided by its length."""
    unit: Tensor = x / (x * x).sum(-1, keepdim=True).add(EPS).sqrt()
    return unit
