"""Mixtures of experts: the router, and the experts."""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np

from tinyllm.plugins import QuantWeight, named_experts
from tinyllm_mlx.arrays import exp, row_sums, widen
from tinyllm_mlx.quantized import dequantize

LEAST_SUM = 1e-20
TANH = math.sqrt(8 / math.pi)
"""gelu by tanh is x times the sigmoid of twice the argument of tanh."""


def moe_router(
    logits: mx.array,
    *,
    bias: mx.array | None = None,
    expert_scale: mx.array | None = None,
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
    if expert_scale is not None:
        weights = weights * mx.take(widen(expert_scale), experts)
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


def moe_experts(
    x: mx.array,
    experts: np.ndarray,
    weights: mx.array,
    gate_proj: mx.array | QuantWeight,
    up_proj: mx.array | QuantWeight,
    down_proj: mx.array | QuantWeight,
    *,
    gate_bias: mx.array | None = None,
    up_bias: mx.array | None = None,
    down_bias: mx.array | None = None,
    activation: str = "silu",
    limit: float | None = None,
    alpha: float = 1.0,
    up_offset: float = 0.0,
) -> mx.array:
    """`sum_j weights_j down(act(gate x) (up x))`, `[T, K]`: an expert after the other, of which only those that are
    named are read and, if they are quantized, expanded. `experts` is a numpy array."""
    wide = widen(x)
    if 0 in (*x.shape, *gate_proj.shape, experts.size) and down_bias is None:
        return mx.zeros(x.shape, x.dtype)

    def product(rows: mx.array, stack: mx.array | QuantWeight, bias: mx.array | None, expert: int) -> mx.array:
        if isinstance(stack, QuantWeight):
            matrix = dequantize(replace(stack.matrix(expert), dtype="float32"))
        else:
            matrix = widen(stack[expert])
        z = rows @ matrix.T
        return z if bias is None else z + widen(bias[expert])

    order, parts = [], []
    for expert, places, tokens in named_experts(experts):
        rows = mx.take(wide, mx.array(tokens), axis=0)
        gate, up = product(rows, gate_proj, gate_bias, expert), product(rows, up_proj, up_bias, expert)
        if limit is not None:
            gate, up = mx.minimum(gate, limit), mx.clip(up, -limit, limit)
        turn = alpha * gate if activation == "silu" else TANH * (gate + 0.044715 * gate * gate * gate)
        order.append(places)
        parts.append(product(gate / (1 + exp(-turn)) * (up + up_offset), down_proj, down_bias, expert))
    if not parts:
        return mx.zeros(x.shape, x.dtype)
    back = mx.array(np.argsort(np.concatenate(order), kind="stable"))
    each = mx.take(mx.concatenate(parts, axis=0), back, axis=0).reshape(*experts.shape, -1)
    return mx.sum(each * widen(weights)[..., None], axis=1).astype(x.dtype)
