"""For the torch backend."""

from __future__ import annotations

from typing import Any

import torch

from quick_linear.layout import Packed, packed


def prepare(weight: Any, uses: tuple[str, ...]) -> Packed:
    made = packed(weight, {name: array.cpu().numpy() for name, array in weight.arrays.items()}, uses)
    device = weight.arrays["scales"].device
    return Packed(
        *(
            None if a is None else torch.from_numpy(a).to(device)
            for a in (made.codes, made.scales, made.biases, made.order)
        ),
        uses,
    )


def quantized_linear(x: Any, weight: Packed, *, bias: Any = None) -> Any:
    groups, size, rows = weight.codes.shape
    columns = x if weight.order is None else x[..., weight.order.long()]
    by_group = columns.reshape(-1, groups, size).transpose(0, 1)
    y = ((by_group @ weight.codes.float()) * weight.scales[:, None]).sum(dim=0) + by_group.sum(dim=-1).T @ weight.biases
    return (y if bias is None else y + bias).reshape(*x.shape[:-1], rows)
