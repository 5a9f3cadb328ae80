"""rms_norm and layer_norm."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from tinyllm_torch.widen import narrow, widen


def rms_norm(x: torch.Tensor, weight: torch.Tensor, *, eps: float = 1e-6, offset: float = 0.0) -> torch.Tensor:
    """`x / sqrt(mean(x^2) + eps) * (offset + weight)`, `[*B, D]`, rounded once.

    By the norm of each row: in a prefill 4 times faster than `F.rms_norm`, which makes an array of the squares.
    """
    if x.shape[-1] == 0:  # the mean of nothing
        return x
    wide = widen(x)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    factor = torch.addcmul(_number(eps, wide.dtype, wide.device), norm, norm, value=1 / x.shape[-1]).rsqrt_()
    weight = widen(weight) + offset if offset else widen(weight)
    return narrow(torch.mul(wide, weight).mul_(factor), x.dtype)


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None, eps: float = 1e-5
) -> torch.Tensor:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, `[*B, D]`, rounded once."""
    if x.shape[-1] == 0:  # the mean of nothing
        return x
    wide_bias = None if bias is None else widen(bias)
    return narrow(F.layer_norm(widen(x), weight.shape, widen(weight), wide_bias, eps), x.dtype)


@lru_cache(maxsize=64)
def _number(value: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A number as a tensor without axes, as `addcmul` wants it."""
    with torch.inference_mode(False):  # one that autograd may keep
        return torch.tensor(value, dtype=dtype, device=device)
