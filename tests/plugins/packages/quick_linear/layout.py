"""The packed layout: 4-bit numbers a byte each, by group `[G, group_size, N]`, so that a group's product needs no
scale."""

from __future__ import annotations

import numpy as np

from tinyllm.plugins import QuantWeight

Packed = dict[str, np.ndarray]
"""What the kernels get in place of the weight: `codes` `[G, group_size, N]`, `scales` and `biases` `[G, N]`; `order`,
where columns are stored in another order, says which input each belongs to."""


def packed(weight: QuantWeight) -> Packed:
    """From numpy arrays."""
    rows, columns = weight.shape
    size, arrays = weight.scheme.block, weight.arrays
    nibbles = (arrays["q"][..., None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
    codes = nibbles.reshape(rows, columns // size, size).transpose(1, 2, 0).astype(np.uint8)
    groups = {name: np.ascontiguousarray(arrays[name].T.astype(np.float32)) for name in ("scales", "biases")}
    order = {"order": arrays["permutation"]} if "permutation" in arrays else {}
    return {"codes": np.ascontiguousarray(codes), **groups, **order}
