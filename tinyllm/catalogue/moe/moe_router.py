"""moe_router: which experts each token goes to, and with what weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.moe.moe_router_cases import BAD_INPUTS, CASES
from tinyllm.errors import invalid
from tinyllm.spec.attribute_checks import boolean, choice, integer, number
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.types import Call

LEAST_SUM = 1e-20
"""Added to the sum that weights are divided by, so that weights of 0 stay 0."""


def _reference(
    xp: Any,
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
    scores = _scores(xp, logits, score)
    rank = logits if bias is None and groups == 1 else scores if bias is None else scores + bias
    rank = xp.where(xp.isnan(rank), -float("inf") * xp.ones((), dtype=rank.dtype), rank)
    experts = _best(xp, rank, top_k, _kept(xp, rank, groups, groups_kept))
    weights = xp.stack([_picked(xp, scores, one) for one in experts], axis=-1)
    if score == "softmax_of_chosen":
        weights = _softmax(xp, weights)
    if normalize:
        weights = weights / (xp.sum(weights, axis=-1, keepdims=True) + LEAST_SUM)
    if expert_scale is not None:
        weights = weights * xp.stack([_picked(xp, expert_scale, one) for one in experts], axis=-1)
    return xp.astype(xp.stack(experts, axis=-1), xp.int32), weights * scaling


def _scores(xp: Any, logits: Any, score: str) -> Any:
    if score == "sigmoid":
        small = xp.exp(-xp.abs(logits))
        return xp.where(logits < 0, small, xp.ones((), dtype=logits.dtype)) / (1 + small)
    return _softmax(xp, logits) if score == "softmax" else logits


def _softmax(xp: Any, x: Any) -> Any:
    weights = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def _kept(xp: Any, rank: Any, groups: int, groups_kept: int) -> Any:
    """Whether each expert is of a group that is kept: `[T, E]`."""
    tokens, experts = rank.shape
    if groups == 1:
        return xp.ones((tokens, experts), dtype=xp.bool)
    in_groups = xp.reshape(rank, (tokens * groups, experts // groups))
    two = _best(xp, in_groups, 2, xp.ones(in_groups.shape, dtype=xp.bool))
    total = xp.reshape(_picked(xp, in_groups, two[0]) + _picked(xp, in_groups, two[1]), (tokens, groups))
    best = _best(xp, total, groups_kept, xp.ones(total.shape, dtype=xp.bool))
    group_of = xp.asarray(np.arange(experts) // (experts // groups))
    kept = xp.zeros((tokens, experts), dtype=xp.bool)
    for one in best:
        kept = xp.logical_or(kept, group_of == xp.expand_dims(one, axis=-1))
    return kept


def _best(xp: Any, rank: Any, count: int, free: Any) -> list[Any]:
    """Places of the `count` largest of each row, the largest first and of equal ones the lower place first: `count`
    arrays `[T]`. `free`: where they may be."""
    places = xp.asarray(np.arange(rank.shape[-1]))
    lowest, beyond = -float("inf") * xp.ones((), dtype=rank.dtype), xp.asarray(np.asarray(rank.shape[-1]))
    found = []
    for _ in range(count):
        most = xp.max(xp.where(free, rank, lowest), axis=-1, keepdims=True)
        is_best = xp.logical_and(free, rank == most)
        place = xp.min(xp.where(is_best, places, beyond), axis=-1)
        free = xp.logical_and(free, xp.logical_not(places == xp.expand_dims(place, axis=-1)))
        found.append(place)
    return found


def _picked(xp: Any, numbers: Any, place: Any) -> Any:
    """The number of each row at its place: `[T]`. (A sum of one, as the profile takes nothing along rows.)"""
    places = xp.asarray(np.arange(numbers.shape[-1]))
    at = places == xp.expand_dims(place, axis=-1)
    return xp.sum(xp.where(at, numbers, xp.zeros((), dtype=numbers.dtype)), axis=-1)


def _check(call: Call) -> dict[str, Any]:
    """Conditions between arguments; `top_k` is a size of the outputs."""
    top_k, groups, kept = (call.attributes[name] for name in ("top_k", "groups", "groups_kept"))
    experts = call.shape("logits")[1]
    if not isinstance(experts, int):
        raise invalid("moe_router", "logits", "a number of experts that is known", experts)
    if experts % groups or (groups > 1 and experts // groups < 2):
        raise invalid("moe_router", "groups", f"a number that {experts} experts are divided by, 2 or more each", groups)
    if kept > groups:
        raise invalid("moe_router", "groups_kept", f"at most the {groups} groups", kept)
    if top_k > experts // groups * kept:
        raise invalid("moe_router", "top_k", f"at most the {experts // groups * kept} experts that are kept", top_k)
    return {"top_k": top_k}


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Relative errors of exp are those of its argument, and a quotient has those of the sum as well."""
    logits, (experts, weights) = inputs["logits"], outputs
    chosen = np.take_along_axis(logits, experts.astype(np.int64), axis=-1)
    if attributes["score"] == "sigmoid":
        error = 1 + np.abs(chosen)
        return None, np.abs(weights) * (error + np.max(error, axis=-1, keepdims=True, initial=0.0))
    below = np.max(logits, axis=-1, keepdims=True) - logits
    of_sum = np.sum(np.where(below < 700, np.exp(-below) * (1 + below), 0.0), axis=-1, keepdims=True)
    return None, np.abs(weights) * (2 + np.max(logits, axis=-1, keepdims=True) - chosen + of_sum)


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    return None, (3 * inputs["logits"].shape[-1]) ** 0.5 * np.abs(outputs[1])


def _flops(call: Call) -> int:
    tokens, experts = call.shape("logits")
    return int(tokens * experts * (4 + call.attributes["top_k"]))


moe_router = OpSpec(
    name="moe_router",
    summary="Top-k routing of tokens to experts: the numbers of the chosen, best first, and their weights.",
    formula="experts = the top_k largest of s(logits) + bias; weights = scaling s(logits)[experts], with normalize "
    "divided by their sum + 1e-20, and times expert_scale[experts]",
    source="Shazeer et al. 2017, arXiv:1701.06538; groups, sigmoid and bias: DeepSeek-AI 2024, arXiv:2412.19437; "
    "softmax of the chosen: OpenAI 2025, arXiv:2508.10925",
    inputs=(
        Input("logits", "T E", "float", about="of each expert for each token; 16-bit ones are computed in float32"),
        Input("bias", "E", "float", optional=True, about="added to scores for the choice, not to the weights"),
        Input("expert_scale", "E", "float", optional=True, about="times the weights of an expert, normalized or not"),
    ),
    attributes=(
        Attribute("top_k", REQUIRED, integer(1), "experts that a token goes to"),
        Attribute(
            "score",
            "softmax",
            choice("softmax", "sigmoid", "softmax_of_chosen"),
            "what makes scores of logits: softmax over all experts, the sigmoid of each, or the logits themselves, "
            "with a softmax over those of the chosen as weights",
        ),
        Attribute("normalize", False, boolean, "whether the weights of a token are divided by their sum"),
        Attribute("scaling", 1.0, number(), "times the weights, once they are normalized"),
        Attribute("groups", 1, integer(1), "groups of as many experts that follow one another"),
        Attribute("groups_kept", 1, integer(1), "groups that experts are chosen from: of the largest sums of two"),
    ),
    outputs=(Output("experts", "T top_k", "int32"), Output("weights", "T top_k", "float32")),
    reference=_reference,
    check=_check,
    flops=_flops,
    scale=_scale,
    sums=_sums,
    notes=(
        "Of equal scores the lower number comes first. Without bias and groups the logits themselves are compared, "
        "which scores rise with: no two of them become equal by rounding.",
        "A group counts as much as its two best experts together, bias included; experts of groups that are not kept "
        "are never chosen, however low the others are.",
        "NaN is chosen last. All experts of a token are different.",
        "Shared experts are no business of a router: they are a feed-forward layer beside the routed ones.",
    ),
    refused={
        "num_experts": "it is the last axis of logits",
        "norm_topk_prob": "write normalize=True",
        "routed_scaling_factor": "write scaling=...",
        "n_group": "write groups=...",
        "topk_group": "write groups_kept=...",
        "e_score_correction_bias": "write bias=...",
        "per_expert_scale": "write expert_scale=...",
    },
    cases=CASES,
    bad_inputs=BAD_INPUTS,
)
