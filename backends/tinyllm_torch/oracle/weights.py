"""Products, tables, quantized numbers and cache writes by PyTorch's functions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinyllm.plugins import QuantWeight
from tinyllm.spec.quantized import WORD


def unpacked(weight: QuantWeight) -> Any:
    """The matrix in float64, bit by bit from what `QuantWeight` says of its format."""
    q, scales = weight.arrays["q"], weight.arrays["scales"]
    if weight.scheme == "affine":
        bits = (q[..., None] >> torch.arange(WORD)) & 1
        q = (bits.flatten(-2).unflatten(-1, (weight.shape[-1], weight.bits)) << torch.arange(weight.bits)).sum(-1)
    matrix = q.double() * scales.repeat_interleave(weight.group_size, dim=-1)
    if weight.scheme == "affine":
        matrix = matrix + weight.arrays["biases"].repeat_interleave(weight.group_size, dim=-1)
    order = weight.arrays.get("permutation")
    return matrix if order is None else matrix[..., torch.argsort(order)]


def kv_append(k_pages: Any, v_pages: Any, k: Any, v: Any, slots: Any) -> Any:
    """Tensor.index_copy over all slots of all pages."""

    def write(pages: Any, tokens: Any) -> Any:
        slotted = pages.transpose(1, 2)
        return slotted.flatten(0, 1).index_copy(0, slots, tokens).unflatten(0, slotted.shape[:2]).transpose(1, 2)

    return write(k_pages, k), write(v_pages, v)


ANSWERS = {
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "embedding": lambda ids, weight: F.embedding(ids, weight),
    "dequantize": lambda weight, dtype="float32": unpacked(weight),
    "quantized_linear": lambda x, weight, bias=None, **_: F.linear(x, unpacked(weight), bias),
    "quantized_embedding": lambda ids, weight, dtype="float32": F.embedding(ids, unpacked(weight)),
    "kv_append": kv_append,
}
