"""rope, rope_angles, rope_rotate."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tinyllm.plugins import RopeScaling, attention_factor, frequencies_by_length, inverse_frequencies
from tinyllm_torch.widen import narrow, widen


def rope(
    x: torch.Tensor,
    *,
    offset: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    inv_freq: torch.Tensor | None = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    traditional: bool = False,
    position_scale: float = 1.0,
) -> torch.Tensor:
    """x `[*B, L, D]` rotated by the angles of its positions along axis -2."""
    if positions is None:
        positions = torch.arange(x.shape[-2], device=x.device)
        if offset is not None:
            positions = offset.long().unsqueeze(-1) + positions
    if inv_freq is None and dims is None:
        dims = x.shape[-1]
    wide = widen(x)
    cos, sin = angles(positions, inv_freq, dims, base, scaling, position_scale, wide.dtype)
    if cos.ndim == 3:  # a row of positions for each entry of the first axis
        shape = (cos.shape[0], *(1,) * (x.ndim - 3), *cos.shape[1:])
        cos, sin = cos.view(shape), sin.view(shape)
    return rotate(wide, cos, sin, traditional).to(x.dtype)


def rope_angles(
    positions: torch.Tensor,
    *,
    inv_freq: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    position_scale: float = 1.0,
    log_scale: float = 0.0,
    log_period: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin `[*P, R]` in float32 of `position * position_scale * inv_freq` radians, times the attention factor,
    and what grows with the logarithm of the position."""
    cos, sin = angles(positions, inv_freq, dims, base, scaling, position_scale, torch.float32, lengths)
    if log_period is None:
        return cos, sin
    periods = torch.div(positions.long(), log_period, rounding_mode="floor").clamp(min=0)
    factor = (1 + log_scale * torch.log1p(periods.float())).unsqueeze(-1)
    return cos * factor, sin * factor


def angles(
    positions: torch.Tensor,
    inv_freq: torch.Tensor | None,
    dims: int | None,
    base: float,
    scaling: RopeScaling | None,
    position_scale: float,
    dtype: torch.dtype,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin `[*P, R]` in `dtype`. Angles are computed in float64 where the device has it: at position 131,071 a
    float32 angle is off by up to 0.006 radians."""
    device = positions.device
    finest = torch.float32 if device.type == "mps" else torch.float64
    factor: Any
    if lengths is not None and scaling is not None:

        def constant(numbers: np.ndarray) -> torch.Tensor:
            return torch.tensor(numbers.tolist(), dtype=finest, device=device)

        frequencies, factor = frequencies_by_length(torch, lengths.to(finest), constant, dims or 0, base, scaling)
    else:
        frequencies = (
            _frequencies(dims or 0, base, scaling, finest, device) if inv_freq is None else inv_freq.to(finest)
        )
        factor = attention_factor(scaling)
    turned = (positions.to(finest) * position_scale).unsqueeze(-1) * frequencies
    cos, sin = torch.cos(turned), torch.sin(turned)
    if not isinstance(factor, float) or factor != 1.0:
        cos, sin = cos * factor, sin * factor
    return cos.to(dtype), sin.to(dtype)


@lru_cache(maxsize=64)
def _frequencies(
    dims: int, base: float, scaling: RopeScaling | None, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """`inverse_frequencies`, in radians per position, on a device."""
    with torch.inference_mode(False):  # one that autograd may keep
        return torch.tensor(inverse_frequencies(dims, base, scaling).tolist(), dtype=dtype, device=device)


def rope_rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, traditional: bool = False) -> torch.Tensor:
    """x `[*B, D]` with each pair (a, b) of its first 2R dims replaced by `(a cos - b sin, b cos + a sin)`."""
    wide = widen(x)
    return narrow(rotate(wide, narrow(cos, wide.dtype), narrow(sin, wide.dtype), traditional), x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, traditional: bool) -> torch.Tensor:
    """`rope_rotate` in the dtype of x. The two dims of a pair are an axis of their own, so that both are multiplied
    by cos in one call."""
    pairs = cos.shape[-1]
    whole = x.shape[-1] == 2 * pairs
    axis, shape = (-1, (pairs, 2)) if traditional else (-2, (2, pairs))
    halves: torch.Tensor = torch.unflatten(x if whole else x[..., : 2 * pairs], -1, shape)
    a, b = halves.unbind(axis)
    turned = halves * cos.unsqueeze(axis)
    turned.select(axis, 0).addcmul_(b, sin, value=-1)
    turned.select(axis, 1).addcmul_(a, sin)
    turned = turned.flatten(-2)
    return turned if whole else torch.cat((turned, x[..., 2 * pairs :]), -1)
