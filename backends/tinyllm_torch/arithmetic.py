"""Sums, products and caps of elements."""

from __future__ import annotations

import torch

from tinyllm_torch.widen import narrow, widen


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The sum `[*B, D]` of x and y, whose leading axes broadcast."""
    return x + y


def mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The product `[*B, D]` of x and y, whose leading axes broadcast; y may have one number a row."""
    return x * y


def scale(x: torch.Tensor, *, factor: float) -> torch.Tensor:
    """`factor * x`, `[*B]`, rounded once."""
    return narrow(widen(x) * factor, x.dtype)


def softcap(x: torch.Tensor, *, cap: float) -> torch.Tensor:
    """`cap * tanh(x / cap)`, `[*B]`, rounded once."""
    return narrow((widen(x) / cap).tanh_().mul_(cap), x.dtype)
