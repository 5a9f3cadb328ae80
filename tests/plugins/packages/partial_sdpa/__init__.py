"""A third party's attention that knows only some of the op's arguments, for every backend on a CPU."""

from __future__ import annotations

import numpy as np

from tinyllm.plugins import EVERY_CPU, Kernel, hookimpl

tinyllm_spec_version = 4


def sdpa(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False, scale: float | None = None
) -> np.ndarray:
    """Attention `[*B, L, Dv]`; rows that see no key are 0."""
    dtype = np.result_type(q.dtype, np.float32)
    scores = q.astype(dtype) @ np.swapaxes(k, -1, -2).astype(dtype)
    scores *= q.shape[-1] ** -0.5 if scale is None else scale
    if causal:
        length, keys = scores.shape[-2:]
        scores = np.where(np.tri(length, keys, keys - length, dtype=bool), scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=-1, keepdims=True)
    return (weights / np.where(total > 0, total, 1) @ v.astype(dtype)).astype(q.dtype)


@hookimpl
def tinyllm_kernels() -> list[Kernel]:
    """Above the priorities of the backends' own kernels."""
    return [Kernel(EVERY_CPU, "sdpa", "partial", "partial_sdpa:sdpa", priority=100, arrays="host")]
