"""Sums of inputs and their negatives by group, each times its scale once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyllm.plugins import Call, QuantWeight

POWERS = 3 ** np.arange(5)


@dataclass(frozen=True)
class Signs:
    """A packed weight: -1, 0 and 1 as int8 `[G, group_size, N]`, scales float32 `[G, 1, N]`."""

    signs: np.ndarray
    scales: np.ndarray


def prepare(weight: QuantWeight, call: Call) -> Signs:
    """From the five numbers of each byte."""
    rows, columns = weight.shape
    digits = (weight.arrays["trits"][..., None].astype(np.int16) + 121) // POWERS % 3 - 1
    size = weight.scheme.block
    signs = digits.reshape(rows, columns // size, size).transpose(1, 2, 0).astype(np.int8)
    scales = weight.arrays["scales"].astype(np.float32).T[:, None]
    return Signs(np.ascontiguousarray(signs), np.ascontiguousarray(scales))


def linear(x: np.ndarray, weight: Signs, *, bias: np.ndarray | None = None) -> np.ndarray:
    """`x weight^T + bias`, `[*B, N]`."""
    groups, size, rows = weight.signs.shape
    by_group = x.reshape(int(np.prod(x.shape[:-1])), groups, size).swapaxes(0, 1)
    y = ((by_group @ weight.signs.astype(np.float32)) * weight.scales).sum(axis=0)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], rows)
