"""The packed layout: 4-bit numbers a byte each, by group `[G, group_size, N]`, so that a group's product needs no
scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Packed:
    """What the kernels get in place of the weight. `order`: which input each stored column belongs to, None: its
    own."""

    codes: Any
    scales: Any
    biases: Any
    order: Any
    uses: tuple[str, ...]


def packed(weight: Any, arrays: dict[str, np.ndarray], uses: tuple[str, ...]) -> Packed:
    """From numpy arrays."""
    rows, columns = weight.shape
    nibbles = (arrays["q"][..., None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
    codes = nibbles.reshape(rows, columns // weight.group_size, weight.group_size).transpose(1, 2, 0).astype(np.uint8)
    scales, biases = (np.ascontiguousarray(arrays[name].T.astype(np.float32)) for name in ("scales", "biases"))
    return Packed(np.ascontiguousarray(codes), scales, biases, arrays.get("permutation"), uses)
