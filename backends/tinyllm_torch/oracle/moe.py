"""Mixtures of experts by PyTorch's functions: the choice by `torch.topk`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tinyllm.conformance.example import Example
from tinyllm_torch.oracle.weights import unpacked


def moe_router(
    logits: Any,
    *,
    bias: Any = None,
    expert_scale: Any = None,
    top_k: int,
    score: str = "softmax",
    normalize: bool = False,
    scaling: float = 1.0,
    groups: int = 1,
    groups_kept: int = 1,
) -> Any:
    """torch.topk of softmax or sigmoid, masked by group."""
    logits = logits.double()
    scores = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid()}.get(score, logits)
    rank = scores if bias is None else scores + bias
    by_group = rank.unflatten(-1, (groups, -1))
    if groups > 1:
        kept = by_group.topk(2, -1).values.sum(-1).topk(groups_kept, -1).indices
        mask = torch.ones(by_group.shape[:2], dtype=torch.bool).scatter(-1, kept, False)
        by_group = by_group.masked_fill(mask[..., None], -torch.inf)
    experts = by_group.flatten(1).topk(top_k, -1).indices
    weights = scores.gather(-1, experts)
    if score == "softmax_of_chosen":
        weights = weights.softmax(-1)
    weights = scaling * (F.normalize(weights, 1, -1, 1e-20) if normalize else weights)
    return experts, weights if expert_scale is None else weights * expert_scale[experts]


def equal_scores(example: Example) -> str:
    """Why torch.topk might choose others, or nothing."""
    logits = example.wide["logits"]
    scores = 1 / (1 + np.exp(-logits)) if example.attributes.get("score") == "sigmoid" else logits
    is_equal = any(len(np.unique(row)) < len(row) for row in scores)
    return "torch.topk chooses among equal scores as it likes" if is_equal else ""


def moe_experts(
    x: Any,
    experts: Any,
    weights: Any,
    gate_proj: Any,
    up_proj: Any,
    down_proj: Any,
    *,
    gate_bias: Any = None,
    up_bias: Any = None,
    down_bias: Any = None,
    activation: str = "silu",
    limit: float | None = None,
    alpha: float = 1.0,
    up_offset: float = 0.0,
) -> Any:
    """torch.einsum over all experts, of which each token takes its own."""

    def product(rows: str, of: Any, stack: Any, bias: Any) -> Any:
        y = torch.einsum(rows, of, unpacked(stack))
        return y if bias is None else y + bias

    gate = product("tk,enk->ten", x, gate_proj, gate_bias)
    up = product("tk,enk->ten", x, up_proj, up_bias)
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    passed = F.gelu(gate, approximate="tanh") if activation == "gelu_tanh" else F.silu(alpha * gate) / alpha
    each = product("ten,ekn->tek", passed * (up + up_offset), down_proj, down_bias)
    taken = each.gather(1, experts.unsqueeze(-1).expand(-1, -1, each.shape[-1]))
    return (taken * weights.unsqueeze(-1)).sum(1)


ANSWERS = {"moe_router": moe_router, "moe_experts": moe_experts}
REASONS = {"moe_router": equal_scores}
