"""Mixtures of experts: the router, and the experts on packed stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm_native.arrays import contiguous, int32, of_dtype
from tinyllm_native.library import run
from tinyllm_native.linear import EXACT, ROUNDED, Packed, structure

SCORES = ("softmax", "sigmoid", "softmax_of_chosen")
"""In the order of `source/router.c`."""


PROJECTIONS = ("gate", "up", "down")


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
    logits = contiguous(logits)
    given = [None if array is None else contiguous(array) for array in (bias, expert_scale)]
    tokens, count = logits.shape
    experts, weights = np.empty((tokens, top_k), np.int32), np.empty((tokens, top_k), np.float32)
    sizes = [tokens, count, count * logits.itemsize, of_dtype(logits)]
    sizes += [0 if array is None else of_dtype(array) for array in given]
    sizes += [top_k, SCORES.index(score), int(normalize), groups, groups_kept]
    run("moe_router", [logits, *given, experts, weights], sizes, [scaling])
    return experts, weights


def moe_experts(
    x: np.ndarray,
    experts: np.ndarray,
    weights: np.ndarray,
    gate_proj: Packed,
    up_proj: Packed,
    down_proj: Packed,
    *,
    gate_bias: np.ndarray | None = None,
    up_bias: np.ndarray | None = None,
    down_bias: np.ndarray | None = None,
    activation: str = "silu",
    limit: float | None = None,
    alpha: float = 1.0,
    up_offset: float = 0.0,
) -> np.ndarray:
    """`sum_j weights_j down(act(gate x) (up x))`, `[T, K]`, summed in float32 and rounded once to the dtype of x."""
    gelu, numbers = of_settings(activation, limit, alpha, up_offset)
    return _experts(
        [x, experts, weights, gate_proj, up_proj, down_proj, gate_bias, up_bias, down_bias], EXACT, gelu, numbers
    )


def moe_experts_rounded(
    x: np.ndarray,
    experts: np.ndarray,
    weights: np.ndarray,
    gate_proj: Packed,
    up_proj: Packed,
    down_proj: Packed,
    *,
    gate_bias: np.ndarray | None = None,
    up_bias: np.ndarray | None = None,
    down_bias: np.ndarray | None = None,
    activation: str = "silu",
    limit: float | None = None,
    alpha: float = 1.0,
    up_offset: float = 0.0,
) -> np.ndarray:
    """`moe_experts` with the numbers of experts that several tokens go to rounded to 8 bits of the largest of 32."""
    gelu, numbers = of_settings(activation, limit, alpha, up_offset)
    return _experts(
        [x, experts, weights, gate_proj, up_proj, down_proj, gate_bias, up_bias, down_bias], ROUNDED, gelu, numbers
    )


def of_settings(activation: str, limit: float | None, alpha: float, up_offset: float) -> tuple[int, list[float]]:
    """Whether the activation is gelu, and the numbers, as `source/experts.c` has them."""
    return int(activation == "gelu_tanh"), [np.inf if limit is None else limit, alpha, up_offset]


def _experts(given: list[Any], limbs: int, gelu: int, numbers: list[float]) -> np.ndarray:
    x, experts, weights, *stacks = given[:6]
    x, experts, weights = contiguous(x), int32(experts), contiguous(weights.astype(np.float32, copy=False))
    biases = [None if bias is None else contiguous(bias) for bias in given[6:]]
    y, stride = np.empty(x.shape, x.dtype), x.shape[1] * x.itemsize
    sizes = [*experts.shape, len(stacks[0]["codes"]), stride, stride, of_dtype(x), limbs, gelu]
    run("moe_experts", [x, experts, weights, *map(structure, stacks), *biases, y], sizes, numbers)
    return y
