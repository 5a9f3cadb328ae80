"""Quantized weights: made, expanded, looked up, and multiplied with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinyllm.errors import UnsupportedError
from tinyllm.plugins import QuantWeight
from tinyllm.spec.quantized import SCHEMES
from tinyllm_torch import linear, packing
from tinyllm_torch.widen import HALVES, widen


def quantize(w: torch.Tensor, *, bits: int = 4, group_size: int = 64, scheme: str = "affine") -> QuantWeight:
    """The ends of a group become the ends of its scale; scales are rounded to what is stored only when all is
    computed."""
    stored = torch.float16 if w.dtype in HALVES else torch.float32
    groups = widen(w).reshape(*w.shape[:-1], w.shape[-1] // group_size, group_size)
    if scheme == "int8":
        low, high, steps = groups.new_zeros(groups.shape[:-1]), groups.abs().amax(-1), 127
    else:
        (low, high), steps = torch.aminmax(groups, dim=-1), 2**bits - 1
    scales = (high - low) / steps
    q = ((groups - low.unsqueeze(-1)) / scales.masked_fill(scales == 0, 1).unsqueeze(-1)).round_().reshape(w.shape)
    shape = tuple(w.shape)
    if scheme == "int8":
        return QuantWeight(
            "int8", {"q": q.clamp_(-127, 127).to(torch.int8), "scales": scales.to(stored)}, 8, group_size, shape
        )
    arrays = {"q": packing.pack(q.clamp_(0, steps), bits), "scales": scales.to(stored), "biases": low.to(stored)}
    return QuantWeight("affine", arrays, bits, group_size, shape)


def expand(weight: QuantWeight, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`scale * q + bias`, computed in float32 or float64."""
    arrays = weight.arrays
    if weight.scheme not in SCHEMES:
        raise UnsupportedError(
            f"torch: the scheme {weight.scheme!r} of a quantized weight is not known (known: {', '.join(SCHEMES)})"
        )
    q = packing.unpack(arrays["q"], weight.bits) if weight.scheme == "affine" else arrays["q"]
    values: torch.Tensor = q.to(dtype).contiguous()
    groups = values.view(*q.shape[:-1], q.shape[-1] // weight.group_size, weight.group_size)
    groups.mul_(arrays["scales"].unsqueeze(-1))
    if weight.scheme == "affine":
        groups.add_(arrays["biases"].unsqueeze(-1))
    if "permutation" in arrays:
        values = values.index_select(-1, torch.argsort(arrays["permutation"]))
    return values


def dequantize(weight: QuantWeight, *, dtype: str = "float32") -> torch.Tensor:
    return expand(weight).to(getattr(torch, dtype))


def quantized_embedding(ids: torch.Tensor, weight: QuantWeight, *, dtype: str = "float32") -> torch.Tensor:
    """Only the rows asked for are expanded."""
    flat = ids.reshape(-1).long()
    rows = weight.rows(lambda array: _signed(array).index_select(0, flat), (len(flat),))
    return expand(rows).to(getattr(torch, dtype)).view(*ids.shape, weight.shape[-1])


def _signed(array: torch.Tensor) -> torch.Tensor:
    """Nothing can be taken from a uint32 tensor."""
    return array.view(torch.int32) if array.dtype is torch.uint32 else array


def quantized_linear(x: torch.Tensor, weight: QuantWeight, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The weight is expanded at every call."""
    wide = widen(x)
    return F.linear(wide, expand(weight, wide.dtype), None if bias is None else widen(bias)).to(x.dtype)


def prepare(weight: QuantWeight, uses: tuple[str, ...]) -> torch.Tensor:
    return linear.pack(expand(weight))


def prepare_float16(weight: QuantWeight, uses: tuple[str, ...]) -> Any:
    return linear.pack_float16(expand(weight))


def prepare_dense_float32(weight: QuantWeight, uses: tuple[str, ...]) -> torch.Tensor:
    return expand(weight)


def prepare_dense_float16(weight: QuantWeight, uses: tuple[str, ...]) -> torch.Tensor:
    return expand(weight).half()


def prepare_dense_bfloat16(weight: QuantWeight, uses: tuple[str, ...]) -> torch.Tensor:
    return expand(weight).bfloat16()
