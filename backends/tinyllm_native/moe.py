"""Mixtures of experts: the router."""

from __future__ import annotations

import numpy as np

from tinyllm_native.arrays import contiguous, of_dtype
from tinyllm_native.library import run

SCORES = ("softmax", "sigmoid", "softmax_of_chosen")
"""In the order of `source/router.c`."""


def moe_router(
    logits: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    top_k: int,
    score: str = "softmax",
    normalize: bool = False,
    scaling: float = 1.0,
    groups: int = 1,
    groups_kept: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """The `top_k` best experts of each token, int32 `[T, top_k]`, and their weights, float32."""
    logits, bias = contiguous(logits), None if bias is None else contiguous(bias)
    tokens, count = logits.shape
    experts, weights = np.empty((tokens, top_k), np.int32), np.empty((tokens, top_k), np.float32)
    sizes = [tokens, count, count * logits.itemsize, of_dtype(logits), 0 if bias is None else of_dtype(bias)]
    sizes += [top_k, SCORES.index(score), int(normalize), groups, groups_kept]
    run("moe_router", [logits, bias, experts, weights], sizes, [scaling])
    return experts, weights
