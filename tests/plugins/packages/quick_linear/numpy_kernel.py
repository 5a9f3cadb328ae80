"""For the numpy backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from quick_linear.layout import Packed, packed


def prepare(weight: Any, uses: tuple[str, ...]) -> Packed:
    return packed(weight, dict(weight.arrays), uses)


def quantized_linear(x: np.ndarray, weight: Packed, *, bias: np.ndarray | None = None) -> np.ndarray:
    groups, size, _ = weight.codes.shape
    columns = x if weight.order is None else x[..., weight.order]
    by_group = columns.reshape(-1, groups, size).swapaxes(0, 1)
    y = ((by_group @ weight.codes.astype(np.float32)) * weight.scales[:, None]).sum(axis=0)
    y += by_group.sum(axis=-1).T @ weight.biases
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], y.shape[-1])
