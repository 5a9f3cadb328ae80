"""Products, tables, quantized numbers and cache writes by PyTorch's functions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinyllm.plugins import WORD, Affine, QuantWeight


def unpacked(weight: Any) -> Any:
    """The matrix in float64, bit by bit from what its scheme says of the format; an array as it is."""
    if not isinstance(weight, QuantWeight):
        return weight
    q, scales, scheme = weight.arrays["q"], weight.arrays["scales"], weight.scheme
    if isinstance(scheme, Affine):
        bits = (q[..., None] >> torch.arange(WORD)) & 1
        q = (bits.flatten(-2).unflatten(-1, (weight.shape[-1], scheme.bits)) << torch.arange(scheme.bits)).sum(-1)
    matrix = q.double() * scales.repeat_interleave(scheme.block, dim=-1)
    if isinstance(scheme, Affine):
        matrix = matrix + weight.arrays["biases"].repeat_interleave(scheme.block, dim=-1)
    order = weight.arrays.get("permutation")
    return matrix if order is None else matrix[..., torch.argsort(order)]


def kv_append(k_pages: Any, v_pages: Any, k: Any, v: Any, slots: Any) -> Any:
    """Tensor.index_copy over all slots of all pages."""

    def write(pages: Any, tokens: Any) -> Any:
        slotted = pages.transpose(1, 2)
        return slotted.flatten(0, 1).index_copy(0, slots, tokens).unflatten(0, slotted.shape[:2]).transpose(1, 2)

    return write(k_pages, k), write(v_pages, v)


ANSWERS = {
    "linear": lambda x, weight, bias=None: F.linear(x, unpacked(weight), bias),
    "embedding": lambda ids, weight: F.embedding(ids, unpacked(weight)),
    "dequantize": unpacked,
    "kv_append": kv_append,
}
