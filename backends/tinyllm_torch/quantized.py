"""quantize and dequantize, for affine and int8 weights."""

from __future__ import annotations

import torch

from tinyllm.plugins import Affine, QuantWeight, Scheme
from tinyllm_torch import packing
from tinyllm_torch.namespace import xp
from tinyllm_torch.widen import HALVES, widen


def quantize(w: torch.Tensor, *, scheme: Scheme = Affine()) -> QuantWeight:
    """The weight `[..., N, K]` nearest to floats; scales are rounded to what is stored only when all is computed."""
    stored = torch.float16 if w.dtype in HALVES else torch.float32
    weight = _affine(widen(w), scheme) if isinstance(scheme, Affine) else scheme.quantize(xp, widen(w))
    arrays = {n: a.to(stored) if a.is_floating_point() else a for n, a in weight.arrays.items()}
    return QuantWeight(scheme, arrays, tuple(w.shape), str(w.dtype).removeprefix("torch."))


def _affine(w: torch.Tensor, scheme: Affine) -> QuantWeight:
    """The ends of a group become the ends of its scale. PyTorch has few operators for the uint32 of the formula."""
    groups = w.reshape(*w.shape[:-1], w.shape[-1] // scheme.group_size, scheme.group_size)
    (low, high), steps = torch.aminmax(groups, dim=-1), 2**scheme.bits - 1
    scales = (high - low) / steps
    q = ((groups - low.unsqueeze(-1)) / scales.masked_fill(scales == 0, 1).unsqueeze(-1)).round_().reshape(w.shape)
    arrays = {"q": packing.pack(q.clamp_(0, steps), scheme.bits), "scales": scales, "biases": low}
    return QuantWeight(scheme, arrays, tuple(w.shape))


def dequantize(weight: QuantWeight) -> torch.Tensor:
    """`scale * q + bias`, `[..., N, K]`, computed in float32 or float64 and rounded once to the dtype that the weight
    says."""
    arrays, scheme = weight.arrays, weight.scheme
    dtype = torch.float64 if weight.dtype == "float64" else torch.float32
    q = packing.unpack(arrays["q"], scheme.bits) if isinstance(scheme, Affine) else arrays["q"]
    values: torch.Tensor = q.to(dtype).contiguous()
    groups = values.view(*q.shape[:-1], q.shape[-1] // scheme.block, scheme.block)
    groups.mul_(arrays["scales"].unsqueeze(-1))
    if "biases" in arrays:
        groups.add_(arrays["biases"].unsqueeze(-1))
    if "permutation" in arrays:
        values = values.index_select(-1, torch.argsort(arrays["permutation"]))
    return values.to(getattr(torch, weight.dtype))


def signed(array: torch.Tensor) -> torch.Tensor:
    """Nothing can be taken from a uint32 tensor."""
    return array.view(torch.int32) if array.dtype is torch.uint32 else array
