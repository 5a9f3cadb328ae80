"""The op between processes: what runs it is the group that it is given."""

from __future__ import annotations

from typing import Any

import numpy as np


def all_reduce(x: np.ndarray, *, group: Any = None) -> np.ndarray:
    """The sum of x over the processes of a group, `[*B]`; x itself where there is none."""
    if group is None:
        return x
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    total: np.ndarray = group.sum(wide)
    return total.astype(x.dtype, copy=False)
