"""The experts that the tokens of a batch name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def named_experts(experts: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of each expert that `experts`, integers `[T, top_k]`, name: its number, in rising order, the places in the
    flattened array that name it, and the tokens that these belong to."""
    flat, top_k = experts.reshape(-1), experts.shape[1]
    for expert in np.unique(flat).tolist():
        places = np.flatnonzero(flat == expert)
        yield expert, places, places // top_k
