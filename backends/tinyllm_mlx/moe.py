"""Mixtures of experts: the router."""

from __future__ import annotations

import mlx.core as mx

from tinyllm_mlx.arrays import exp, row_sums, widen

LEAST_SUM = 1e-20


def moe_router(
    logits: mx.array,
    *,
    bias: mx.array | None = None,
    top_k: int,
    score: str = "softmax",
    normalize: bool = False,
    scaling: float = 1.0,
    groups: int = 1,
    groups_kept: int = 1,
) -> tuple[mx.array, mx.array]:
    """The `top_k` best experts of each token, int32 `[T, top_k]`, and their weights, float32."""
    if logits.size == 0:
        return mx.zeros((logits.shape[0], top_k), mx.int32), mx.zeros((logits.shape[0], top_k))
    wide = widen(logits)
    scores = _softmax(wide) if score == "softmax" else _sigmoid(wide) if score == "sigmoid" else wide
    rank = wide if bias is None and groups == 1 else scores if bias is None else scores + widen(bias)
    rank = mx.where(mx.isnan(rank), -mx.inf, rank)
    experts = _within(rank, top_k, groups, groups_kept) if groups > 1 else _best(rank, top_k)
    weights = mx.take_along_axis(scores, experts, axis=-1)
    if score == "softmax_of_chosen":
        weights = _softmax(weights)
    if normalize:
        weights = weights / (row_sums(weights) + LEAST_SUM)
    return experts.astype(mx.int32), weights * scaling


def _best(rank: mx.array, count: int) -> mx.array:
    """Places of the largest of each row, of equal ones the lower first: one after the other, as MLX's sort does not
    promise to keep the order of equals."""
    places = mx.arange(rank.shape[-1])
    free, found = mx.ones(rank.shape, mx.bool_), []
    for _ in range(count):
        most = mx.max(mx.where(free, rank, -mx.inf), axis=-1, keepdims=True)
        place = mx.min(mx.where(free & (rank == most), places, rank.shape[-1]), axis=-1, keepdims=True)
        free = free & (places != place)
        found.append(place)
    return mx.concatenate(found, axis=-1)


def _within(rank: mx.array, top_k: int, groups: int, groups_kept: int) -> mx.array:
    """The best of the groups that are kept, looked for among these alone: their own may be as low as -inf."""
    tokens, experts = rank.shape
    each = experts // groups
    in_groups = rank.reshape(tokens, groups, each)
    two = mx.take_along_axis(in_groups, _best(in_groups, 2), axis=-1)
    kept = mx.sort(_best(two[..., 0] + two[..., 1], groups_kept), axis=-1)
    among = mx.take_along_axis(in_groups, kept[..., None], axis=1).reshape(tokens, groups_kept * each)
    place = _best(among, top_k)
    return mx.take_along_axis(kept, place // each, axis=-1) * each + place % each


def _softmax(x: mx.array) -> mx.array:
    weights = exp(x - mx.max(x, axis=-1, keepdims=True))
    return weights / row_sums(weights)


def _sigmoid(x: mx.array) -> mx.array:
    small = exp(-mx.abs(x))
    return mx.where(x < 0, small, 1.0) / (1 + small)
