"""How numpy arrays are given to the library."""

from __future__ import annotations

from math import prod

import numpy as np

from tinyllm_native.records import DTYPES


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array itself where its numbers lie one after the other, else a copy in which they do."""
    return array if array.flags.c_contiguous else array.copy()


def int32(array: np.ndarray) -> np.ndarray:
    """Indices as the library reads them."""
    return contiguous(np.asarray(array).astype(np.int32, copy=False))


def of_dtype(array: np.ndarray) -> int:
    """The number of a dtype."""
    return DTYPES[array.dtype.name]


def rows_of(array: np.ndarray) -> int:
    """How many rows `[*B, D]` has."""
    return prod(array.shape[:-1])


def are_neighbours(array: np.ndarray, axis: int) -> bool:
    """Whether numbers that differ in the axes after one lie one after the other; steps are told along the others."""
    apart = array.itemsize
    for size, stride in zip(array.shape[:axis:-1], array.strides[:axis:-1], strict=True):
        if size > 1 and stride != apart:
            return False
        apart *= size
    return True
