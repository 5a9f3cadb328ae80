"""Mixtures of experts: the router."""

from __future__ import annotations

import numpy as np

from tinyllm_numpy.widen import widen

LEAST_SUM = 1e-20


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
    wide = widen(logits)
    scores = _softmax(wide) if score == "softmax" else _sigmoid(wide) if score == "sigmoid" else wide
    rank = wide if bias is None and groups == 1 else scores if bias is None else scores + bias
    rank = np.where(np.isnan(rank), -np.inf, rank)
    experts = _within(rank, top_k, groups, groups_kept) if groups > 1 else _best(rank, top_k)
    weights = np.take_along_axis(scores, experts, axis=-1)
    if score == "softmax_of_chosen":
        weights = _softmax(weights)
    if normalize:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + LEAST_SUM)
    return experts.astype(np.int32), (weights * scaling).astype(np.float32, copy=False)


def _best(rank: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest of each row, of equal ones the lower first."""
    return np.argsort(-rank, axis=-1, kind="stable")[..., :count]


def _within(rank: np.ndarray, top_k: int, groups: int, groups_kept: int) -> np.ndarray:
    """The best of the groups that are kept, looked for among these alone: their own may be as low as -inf."""
    tokens, experts = rank.shape
    each = experts // groups
    in_groups = rank.reshape(tokens, groups, each)
    kept = np.sort(_best(np.sort(in_groups, axis=-1)[..., -2:].sum(axis=-1), groups_kept), axis=-1)
    among = np.take_along_axis(in_groups, kept[..., None], axis=1).reshape(tokens, groups_kept * each)
    place = _best(among, top_k)
    return np.take_along_axis(kept, place // each, axis=-1) * each + place % each


def _softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    passed: np.ndarray = np.where(x < 0, small, np.ones((), x.dtype)) / (1 + small)
    return passed
