"""split, split_heads, merge_heads: views wherever strides allow."""

from __future__ import annotations

import torch


def split(x: torch.Tensor, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[torch.Tensor, ...]:
    """Parts of x of the given sizes along an axis, as views."""
    return torch.split_with_sizes(x, sizes, axis)


def split_heads(x: torch.Tensor, *, heads: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Groups of heads `[*B, heads_i, D]` of x `[*B, N]`, as views where strides allow."""
    total = sum(heads)
    by_head = x.reshape(*x.shape[:-1], total, x.shape[-1] // total)
    return (by_head,) if len(heads) == 1 else torch.split_with_sizes(by_head, heads, -2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """x `[*B, H, D]` as `[*B, H * D]`."""
    return x.flatten(-2)
