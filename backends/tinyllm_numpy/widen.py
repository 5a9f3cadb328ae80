"""16-bit numbers are computed with in float32: numpy has no BLAS for them, and sums of them lose digits."""

from __future__ import annotations

import numpy as np


def widen(array: np.ndarray) -> np.ndarray:
    """The array itself where it is float32 or float64; 16-bit floats as float32."""
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array
