"""Activations: silu, gelu, sigmoid, and the gated ones."""

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
    return narrow(_gelu(widen(x), approximate), x.dtype)


def _gelu(wide: torch.Tensor, approximate: str) -> torch.Tensor:
    y = F.gelu(wide, approximate=approximate)
    return torch.where(wide > EXACT, wide, y) if approximate == "none" else y


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """`1 / (1 + exp(-x))`, `[*B]`, rounded once."""
    return narrow(torch.sigmoid(widen(x)), x.dtype)


def swiglu(
    gate: torch.Tensor, up: torch.Tensor, *, limit: float | None = None, alpha: float = 1.0, up_offset: float = 0.0
) -> torch.Tensor:
    """`g * sigmoid(alpha * g) * (u + up_offset)`, `[*B, D]`, rounded once: g is the gate within the limit, u is up."""
    wide, up = widen(gate), widen(up)
    if limit is not None:
        wide, up = wide.clamp(max=limit), up.clamp(-limit, limit)
    gated = F.silu(wide) if alpha == 1 else torch.sigmoid(wide * alpha).mul_(wide)
    return narrow(_times(gated, up + up_offset if up_offset else up), gate.dtype)


def geglu(gate: torch.Tensor, up: torch.Tensor, *, approximate: str = "tanh") -> torch.Tensor:
    """`gelu(gate) * up`, `[*B, D]`, rounded once."""
    return narrow(_times(_gelu(widen(gate), approximate), widen(up)), gate.dtype)


def _times(gated: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The product, in the memory of `gated` where it fits."""
    return gated.mul_(up) if gated.shape == up.shape else gated * up
