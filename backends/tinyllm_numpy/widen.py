"""16-bit numbers are computed in float32: numpy has no BLAS for them, and sums of them lose digits."""

from __future__ import annotations

import numpy as np


def widen(array: np.ndarray) -> np.ndarray:
    """float32 and float64 as they are, anything shorter as float32."""
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array
