"""16-bit numbers are computed in float32 and rounded once."""

from __future__ import annotations

import torch

HALVES = (torch.float16, torch.bfloat16)


def widen(x: torch.Tensor) -> torch.Tensor:
    """float32 and float64 as they are, 16-bit floats as float32."""
    return x.float() if x.dtype in HALVES else x


def narrow(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The way back. (`Tensor.to` takes its time to find that there is nothing to do.)"""
    return x if x.dtype is dtype else x.to(dtype)


def for_product(x: torch.Tensor) -> torch.Tensor:
    """A factor of a matrix product: a GPU sums 16-bit products in float32 by itself, on a CPU widened ones are
    faster."""
    return x.float() if x.dtype in HALVES and x.device.type == "cpu" else x
