"""Recurrent states by PyTorch's functions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def short_conv(
    x: Any,
    state: Any,
    weight: Any,
    q_start: Any,
    kv_len: Any,
    state_rows: Any,
    *,
    bias: Any = None,
    activation: str = "none",
) -> Any:
    """F.conv1d with a group for each channel."""
    parts, state, width = [x[:0]], state.clone(), weight.shape[1]
    for new, length, row in zip(x.split(q_start.diff().tolist()), kv_len, state_rows, strict=True):
        if not len(new):
            continue
        before = state[row] * 0 if length == len(new) else state[row]
        seen = torch.cat([before, new.T], 1)
        y = F.conv1d(seen[None], weight[:, None], bias, groups=len(weight))[0].T
        parts.append(F.silu(y) if activation == "silu" else y)
        state[row] = seen[:, seen.shape[1] - width + 1 :]
    return torch.cat(parts), state


def gated_delta(
    q: Any,
    k: Any,
    v: Any,
    a: Any,
    b: Any,
    state: Any,
    a_log: Any,
    dt_bias: Any,
    q_start: Any,
    kv_len: Any,
    state_rows: Any,
    *,
    tiled: bool = False,
) -> Any:
    """Products of states with the matrices that tokens turn them by, `keep (I - learn k k^T)`: torch.baddbmm."""
    y, state, dim = torch.zeros_like(v), state.clone(), q.shape[-1]
    of_value = torch.arange(v.shape[1])
    of_value = of_value % q.shape[1] if tiled else of_value // (v.shape[1] // q.shape[1])
    q, k = (_unit(each)[:, of_value].unsqueeze(-1) for each in (q, k))
    keep = torch.exp(-a_log.exp() * F.softplus(a + dt_bias, threshold=50))[..., None, None]
    learn = b.sigmoid()[..., None, None]
    turns = keep * (torch.eye(dim, dtype=k.dtype) - learn * k @ k.mT)
    learnt = learn * k @ v.unsqueeze(-2)
    for number, (length, row) in enumerate(zip(kv_len, state_rows, strict=True)):
        first, last = q_start[number : number + 2].tolist()
        s = state[row] * 0 if length == last - first > 0 else state[row]
        for t in range(first, last):
            s = torch.baddbmm(learnt[t], turns[t], s)
            y[t] = (q[t].mT @ s).squeeze(-2) / dim**0.5
        state[row] = s
    return y, state


def _unit(x: Any) -> Any:
    """F.normalize, which adds nothing to the square sums: a number more does."""
    more = torch.full((*x.shape[:-1], 1), 1e-3, dtype=x.dtype)
    return F.normalize(torch.cat([x, more], -1), dim=-1)[..., :-1]


ANSWERS = {"short_conv": short_conv, "gated_delta": gated_delta}
