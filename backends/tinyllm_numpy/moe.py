"""Mixtures of experts: the router, and the experts of every CPU."""

from __future__ import annotations

import math

import numpy as np

from tinyllm.plugins import QuantWeight, named_experts
from tinyllm_numpy.widen import widen

LEAST_SUM = 1e-20


def moe_router(
    logits: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    expert_scale: np.ndarray | None = None,
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
    if expert_scale is not None:
        weights = weights * widen(expert_scale)[experts]
    return experts.astype(np.int32), (weights * scaling).astype(np.float32, copy=False)


def _best(rank: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest of each row, of equal ones the lower first."""
    places: np.ndarray = np.argsort(-rank, axis=-1, kind="stable")[..., :count]
    return places


def _within(rank: np.ndarray, top_k: int, groups: int, groups_kept: int) -> np.ndarray:
    """The best of the groups that are kept, looked for among these alone: their own may be as low as -inf."""
    tokens, experts = rank.shape
    each = experts // groups
    in_groups = rank.reshape(tokens, groups, each)
    kept = np.sort(_best(np.sort(in_groups, axis=-1)[..., -2:].sum(axis=-1), groups_kept), axis=-1)
    among = np.take_along_axis(in_groups, kept[..., None], axis=1).reshape(tokens, groups_kept * each)
    place = _best(among, top_k)
    experts_kept: np.ndarray = np.take_along_axis(kept, place // each, axis=-1) * each + place % each
    return experts_kept


def _softmax(x: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.exp(x - x.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    passed: np.ndarray = np.where(x < 0, small, np.ones((), x.dtype)) / (1 + small)
    return passed


def moe_experts(
    x: np.ndarray,
    experts: np.ndarray,
    weights: np.ndarray,
    gate_proj: np.ndarray | QuantWeight,
    up_proj: np.ndarray | QuantWeight,
    down_proj: np.ndarray | QuantWeight,
    *,
    gate_bias: np.ndarray | None = None,
    up_bias: np.ndarray | None = None,
    down_bias: np.ndarray | None = None,
    activation: str = "silu",
    limit: float | None = None,
    alpha: float = 1.0,
    up_offset: float = 0.0,
) -> np.ndarray:
    """`sum_j weights_j down(act(gate x) (up x))`, `[T, K]`: an expert after the other, of which only those that are
    named are read and, if they are quantized, expanded."""
    wide = widen(x)
    y, factors = np.zeros(x.shape, wide.dtype), weights.reshape(-1).astype(wide.dtype)

    def product(rows: np.ndarray, stack: np.ndarray | QuantWeight, bias: np.ndarray | None, expert: int) -> np.ndarray:
        if isinstance(stack, QuantWeight):
            of_expert = stack.matrix(expert)
            matrix = of_expert.scheme.dequantize(np, of_expert, wide.dtype)
        else:
            matrix = widen(stack[expert])
        z: np.ndarray = rows @ matrix.T
        return z if bias is None else z + widen(bias[expert])

    for expert, places, tokens in named_experts(experts):
        rows = wide[tokens]
        gate, up = product(rows, gate_proj, gate_bias, expert), product(rows, up_proj, up_bias, expert)
        if limit is not None:
            gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        hidden = _gated(gate, alpha if activation == "silu" else None) * (up + up_offset)
        part = product(hidden, down_proj, down_bias, expert)
        np.add.at(y, tokens, part * factors[places, None])
    return y.astype(x.dtype, copy=False)


def _gated(gate: np.ndarray, alpha: float | None) -> np.ndarray:
    """`gate * sigmoid(alpha * gate)`; None: gelu by its tanh approximation, which is one of twice tanh's argument."""
    turn = alpha * gate if alpha is not None else math.sqrt(8 / math.pi) * (gate + 0.044715 * gate * gate * gate)
    with np.errstate(over="ignore"):  # exp of a large number is inf, and gate / inf the 0 it should be
        passed: np.ndarray = gate / (1 + np.exp(-turn))
    return passed
