"""Mixtures of experts: the router."""

from __future__ import annotations

import torch

from tinyllm_torch.widen import widen

LEAST_SUM = 1e-20


def moe_router(
    logits: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
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
    return experts.int(), (weights * scaling).float()


def _best(rank: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the largest of each row, of equal ones the lower first, which `torch.topk` does not promise."""
    return torch.sort(rank, dim=-1, descending=True, stable=True).indices[..., :count]


def _within(rank: torch.Tensor, top_k: int, groups: int, groups_kept: int) -> torch.Tensor:
    """The best of the groups that are kept, looked for among these alone: their own may be as low as -inf."""
    in_groups = rank.unflatten(-1, (groups, -1))
    each = in_groups.shape[-1]
    kept = _best(in_groups.topk(2, -1).values.sum(-1), groups_kept).sort(-1).values
    among = in_groups.gather(1, kept.unsqueeze(-1).expand(-1, -1, each)).flatten(1)
    place = _best(among, top_k)
    return kept.gather(-1, place // each) * each + place % each
