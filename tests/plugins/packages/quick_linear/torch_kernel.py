"""For the torch backend."""

from __future__ import annotations

from typing import Any

import torch

from quick_linear.layout import packed
from tinyllm.plugins import Call, QuantWeight


def prepare(weight: QuantWeight, call: Call) -> dict[str, Any]:
    device = weight.arrays["scales"].device
    wide = {n: a.float() if a.is_floating_point() else a for n, a in weight.arrays.items()}  # numpy has no bfloat16
    arrays = packed(weight.with_arrays({name: array.cpu().numpy() for name, array in wide.items()}))
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def linear(x: Any, weight: dict[str, Any], *, bias: Any = None) -> Any:
    groups, size, rows = weight["codes"].shape
    columns = x[..., weight["order"].long()] if "order" in weight else x
    by_group = columns.reshape(x.shape[:-1].numel(), groups, size).transpose(0, 1)
    y = ((by_group @ weight["codes"].float()) * weight["scales"][:, None]).sum(dim=0)
    y = y + by_group.sum(dim=-1).T @ weight["biases"]
    return (y if bias is None else y + bias).reshape(*x.shape[:-1], rows)
