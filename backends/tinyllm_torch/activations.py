"""Elementwise ops: silu, gelu, swiglu, add."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tinyllm_torch.widen import narrow, widen

EXACT = 16.0
"""Beyond it gelu(x) is x. oneDNN, which computes `F.gelu` in float32, gives inf for 3e38 and NaN for inf."""


def silu(x: torch.Tensor) -> torch.Tensor:
    """`x sigmoid(x)`, `[*B]`, rounded once."""
    return F.silu(widen(x)).to(x.dtype)


def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """x times the standard normal distribution function of x, `[*B]`, by erf or by the approximation with tanh."""
    wide = widen(x)
    y = F.gelu(wide, approximate=approximate)
    if approximate == "none":
        y = torch.where(wide > EXACT, wide, y)
    return y.to(x.dtype)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, `[*B, D]`, rounded once."""
    gated, up = F.silu(widen(gate)), widen(up)
    return narrow(gated.mul_(up) if gated.shape == up.shape else gated * up, gate.dtype)


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The sum `[*B, D]` of x and y, whose leading axes broadcast."""
    return x + y
