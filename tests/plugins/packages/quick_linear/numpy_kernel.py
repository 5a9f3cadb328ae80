"""For the numpy backend."""

from __future__ import annotations

import numpy as np

from quick_linear.layout import Packed, packed
from tinyllm.plugins import Call, QuantWeight


def prepare(weight: QuantWeight, call: Call) -> Packed:
    return packed(weight)


def linear(x: np.ndarray, weight: Packed, *, bias: np.ndarray | None = None) -> np.ndarray:
    groups, size, rows = weight["codes"].shape
    columns = x[..., weight["order"]] if "order" in weight else x
    by_group = columns.reshape(int(np.prod(x.shape[:-1])), groups, size).swapaxes(0, 1)
    y = ((by_group @ weight["codes"].astype(np.float32)) * weight["scales"][:, None]).sum(axis=0)
    y += by_group.sum(axis=-1).T @ weight["biases"]
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], rows)
