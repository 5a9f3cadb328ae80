"""Mixtures of experts: the router, and the experts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from tinyllm.plugins import QuantWeight, named_experts
from tinyllm_torch.quantized import dequantize
from tinyllm_torch.widen import narrow, widen

LEAST_SUM = 1e-20


def moe_router(
    logits: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    expert_scale: torch.Tensor | None = None,
    top_k: int,
    score: str = "softmax",
    normalize: bool = False,
    scaling: float = 1.0,
    groups: int = 1,
    groups_kept: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `top_k` best experts of each token, int32 `[T, top_k]`, and their weights, float32."""
    wide = widen(logits)
    scores = wide.softmax(-1) if score == "softmax" else wide.sigmoid() if score == "sigmoid" else wide
    rank = wide if bias is None and groups == 1 else scores if bias is None else scores + bias
    rank = rank.masked_fill(rank.isnan(), -torch.inf)
    experts = _within(rank, top_k, groups, groups_kept) if groups > 1 else _best(rank, top_k)
    weights = scores.gather(-1, experts)
    if score == "softmax_of_chosen":
        weights = weights.softmax(-1)
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + LEAST_SUM)
    if expert_scale is not None:
        weights = weights * widen(expert_scale)[experts]
    return experts.int(), (weights * scaling).float()


def _best(rank: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the largest of each row, of equal ones the lower first, which `torch.topk` does not promise."""
    return torch.sort(rank, dim=-1, descending=True, stable=True).indices[..., :count]


def _within(rank: torch.Tensor, top_k: int, groups: int, groups_kept: int) -> torch.Tensor:
    """The best of the groups that are kept, looked for among these alone: their own may be as low as -inf."""
    in_groups = rank.reshape(len(rank), groups, rank.shape[-1] // groups)
    each = in_groups.shape[-1]
    kept = _best(in_groups.topk(2, -1).values.sum(-1), groups_kept).sort(-1).values
    among = in_groups.gather(1, kept.unsqueeze(-1).expand(-1, -1, each)).flatten(1)
    place = _best(among, top_k)
    experts: torch.Tensor = kept.gather(-1, place // each) * each + place % each
    return experts


def moe_experts(
    x: torch.Tensor,
    experts: np.ndarray,
    weights: torch.Tensor,
    gate_proj: torch.Tensor | QuantWeight,
    up_proj: torch.Tensor | QuantWeight,
    down_proj: torch.Tensor | QuantWeight,
    *,
    gate_bias: torch.Tensor | None = None,
    up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    activation: str = "silu",
    limit: float | None = None,
    alpha: float = 1.0,
    up_offset: float = 0.0,
) -> torch.Tensor:
    """`sum_j weights_j down(act(gate x) (up x))`, `[T, K]`: an expert after the other, of which only those that are
    named are read and, if they are quantized, expanded. `experts` is a numpy array."""
    wide = widen(x)
    y, factors = torch.zeros_like(wide), weights.reshape(-1).to(wide.dtype)
    to = str(wide.dtype).removeprefix("torch.")

    def product(
        rows: torch.Tensor, stack: torch.Tensor | QuantWeight, bias: torch.Tensor | None, expert: int
    ) -> torch.Tensor:
        if isinstance(stack, QuantWeight):
            matrix = dequantize(replace(stack.matrix(expert), dtype=to))
        else:
            matrix = widen(stack[expert])
        return F.linear(rows, matrix, None if bias is None else widen(bias[expert]))

    for expert, *indices in named_experts(experts):
        places, tokens = (torch.from_numpy(each).to(x.device) for each in indices)
        rows = wide.index_select(0, tokens)
        gate, up = product(rows, gate_proj, gate_bias, expert), product(rows, up_proj, up_bias, expert)
        if limit is not None:
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        passed = F.gelu(gate, approximate="tanh") if activation == "gelu_tanh" else gate * torch.sigmoid(alpha * gate)
        part = product(passed * (up + up_offset), down_proj, down_bias, expert)
        y.index_add_(0, tokens, part * factors[places].unsqueeze(-1))
    return narrow(y, x.dtype)
