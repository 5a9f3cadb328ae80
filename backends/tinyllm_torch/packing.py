"""The bit stream of quantized rows, on bytes: torch has few operators for uint32, but looks at it as bytes for
nothing."""

from __future__ import annotations

import torch

from tinyllm.plugins import WORD

EIGHT = 8
"""Values worked on together: 8 of them fill whole bytes, whatever their bits."""


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """uint32 `[..., K * bits / 32]` to uint8 `[..., K]`."""
    if not words.numel():  # whose strides may be ones that no view takes
        return torch.zeros((*words.shape[:-1], words.shape[-1] * WORD // bits), dtype=torch.uint8, device=words.device)
    octets: torch.Tensor = words.contiguous().view(torch.uint8)
    if bits == 8:
        return octets
    if bits == 4:
        return torch.stack((octets & 15, octets >> 4), -1).flatten(-2)
    lead, count = octets.shape[:-1], octets.shape[-1] // bits
    chunks = octets.new_zeros((*lead, count, EIGHT))
    chunks[..., :bits] = octets.view(*lead, count, bits)
    values: torch.Tensor = chunks.view(torch.int64) >> _shifts(bits, octets.device) & (2**bits - 1)
    return values.to(torch.uint8).view(*lead, count * EIGHT)


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse, of integers below `2**bits`."""
    if not values.numel():
        return torch.zeros(
            (*values.shape[:-1], values.shape[-1] * bits // WORD), dtype=torch.uint32, device=values.device
        )
    if bits == 8:
        octets = values.to(torch.uint8)
    else:
        lead, count = values.shape[:-1], values.shape[-1] // EIGHT
        chunks = (values.to(torch.int64).reshape(*lead, count, EIGHT) << _shifts(bits, values.device)).sum(
            -1, keepdim=True
        )
        octets = chunks.view(torch.uint8)[..., :bits].reshape(*lead, count * bits)
    words: torch.Tensor = octets.contiguous().view(torch.uint32)
    return words


def _shifts(bits: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, EIGHT * bits, bits, device=device)
