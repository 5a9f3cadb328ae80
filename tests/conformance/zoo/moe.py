"""Mixtures of experts, and what goes wrong in them: the choice, its weights, and who is sent where."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, wide


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
    mistake: str | None = None,
) -> Any:
    values = wide(logits)
    scores = values if score == "softmax_of_chosen" else _softmax(values)
    if score == "sigmoid":
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-values))
    biased = bias is not None and mistake != "bias ignored"
    rank = values if not biased and groups == 1 and mistake != "scores compared" else scores
    rank = rank + bias if biased else rank
    if groups > 1:
        grouped = rank.reshape(len(rank), groups, rank.shape[-1] // groups)
        counted = 1 if mistake == "groups by their best" else 2
        totals = np.sort(grouped, axis=-1)[..., -counted:].sum(axis=-1)
        kept = np.argsort(-totals, axis=-1, kind="stable")[:, :groups_kept]
        outside = np.ones(grouped.shape, bool)
        np.put_along_axis(outside, kept[..., None], False, axis=1)
        shut = 0.0 if mistake == "shut groups at 0" else -np.inf
        rank = np.where(outside, shut, grouped).reshape(rank.shape)
    order = np.argsort(-rank, axis=-1, kind="stable")
    if mistake == "higher of equals":
        order = rank.shape[-1] - 1 - np.argsort(-rank[:, ::-1], axis=-1, kind="stable")
    experts = order[:, :top_k]
    if mistake == "in order of their numbers":
        experts = np.sort(experts, axis=-1)
    weights = np.take_along_axis(rank if mistake == "bias in the weights" else scores, experts, axis=-1)
    if score == "softmax_of_chosen":
        weights = _softmax(weights)
    if mistake == "scaled before":
        weights = weights * np.float32(scaling)
    if normalize or mistake == "always normalized":
        weights = weights / (weights.sum(axis=-1, keepdims=True) + np.float32(1e-20))
    if mistake != "scaled before":
        weights = weights * np.float32(scaling)
    if expert_scale is not None and mistake != "expert scale ignored":
        weights = weights * wide(expert_scale)[np.arange(top_k) if mistake == "scale by place" else experts]
    return experts.astype(np.int32), weights.astype(np.float32)


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
    mistake: str | None = None,
) -> Any:
    rows, factors = wide(x), weights.astype(wide(x).dtype)
    y = np.zeros_like(rows)
    for token, slot in np.ndindex(*experts.shape):
        expert = experts[token, slot]
        seen = list(experts[token, :slot])
        if mistake == "an expert once" and expert in seen:
            continue
        gate, up = (wide(stack[expert]) @ rows[token] for stack in (gate_proj, up_proj))
        if gate_bias is not None:
            gate, up = gate + wide(gate_bias[expert]), up + wide(up_bias[expert])
        if mistake == "gate and up swapped":
            gate, up = up, gate
        if limit is not None and mistake != "not clamped":
            lowest = -limit if mistake == "gates clamped below" else -np.inf
            gate, up = np.clip(gate, lowest, limit), np.clip(up, -limit, limit)
        if activation == "gelu_tanh" and mistake != "always silu":
            passed = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            passed = gate / (1 + np.exp(-gate * (1.0 if mistake == "alpha ignored" else alpha)))
        hidden = passed * (up + (0.0 if mistake == "no offset" else up_offset))
        part = wide(down_proj[expert]) @ hidden.astype(rows.dtype)
        factor = factors[0, slot] if mistake == "weights of the first token" else factors[token, slot]
        added = 0 if down_bias is None else wide(down_bias[expert])
        if mistake == "bias without its weight":
            y[token] += part * factor + added
        else:
            y[token] += (part + added) * factor
    return y.astype(x.dtype)


def _softmax(x: Any) -> Any:
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


MUTANTS = (
    Mutant("bias ignored", "moe_router", "The experts that would be best without the bias.", moe_router),
    Mutant("bias in the weights", "moe_router", "The bias is there for the choice alone.", moe_router),
    Mutant("groups by their best", "moe_router", "Of a group one expert counts, and not two.", moe_router),
    Mutant("shut groups at 0", "moe_router", "0 is more than a score with a bias below 0, so that they come in.",
           moe_router),
    Mutant("higher of equals", "moe_router", "Of experts with one score the last comes first.", moe_router),
    Mutant("in order of their numbers", "moe_router", "Experts sorted by number, and not by score.", moe_router),
    Mutant("scores compared", "moe_router", "Scores that are 1 both, of logits that are not.", moe_router),
    Mutant("scaled before", "moe_router", "Normalizing takes the factor off again.", moe_router),
    Mutant("expert scale ignored", "moe_router", "Weights as a router without it has them.", moe_router),
    Mutant("scale by place", "moe_router", "The scale of the first expert for the best one.", moe_router),
    Mutant("always normalized", "moe_router", "Weights sum to 1 for models that do not ask for it.", moe_router),
    Mutant("an expert once", "moe_experts", "A set of experts, where a token may name one twice.", moe_experts),
    Mutant("gate and up swapped", "moe_experts", "The activation is that of the wrong half.", moe_experts),
    Mutant("not clamped", "moe_experts", "`limit` is not looked at.", moe_experts),
    Mutant("gates clamped below", "moe_experts", "Gates have a limit above alone.", moe_experts),
    Mutant("always silu", "moe_experts", "The activation is not looked at.", moe_experts),
    Mutant("alpha ignored", "moe_experts", "The sigmoid of the gate itself.", moe_experts),
    Mutant("no offset", "moe_experts", "What is added to ups is left out.", moe_experts),
    Mutant("weights of the first token", "moe_experts", "Right for one token, as in decoding.", moe_experts),
    Mutant("bias without its weight", "moe_experts", "It is added after the weights are multiplied.", moe_experts),
)  # fmt: skip
