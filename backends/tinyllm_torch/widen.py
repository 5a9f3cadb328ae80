"""16-bit numbers are computed with in float32, and results are rounded once."""

from __future__ import annotations

import torch

HALVES = (torch.float16, torch.bfloat16)


def widen(x: torch.Tensor) -> torch.Tensor:
    """The tensor itself where it is float32 or float64; 16-bit floats as float32."""
    return x.float() if x.dtype in HALVES else x


def narrow(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in a dtype. (`Tensor.to` takes longer where it already has that dtype.)"""
    return x if x.dtype is dtype else x.to(dtype)


def for_product(x: torch.Tensor) -> torch.Tensor:
    """A factor of a matrix product: a GPU sums 16-bit products in float32 by itself, on a CPU widened ones are
    faster."""
    return x.float() if x.dtype in HALVES and x.device.type == "cpu" else x
