"""The cases of `moe_router`: which experts are chosen jumps where scores are near to one another, so that those that
are compared lie clearly apart, or are equal."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, Draw, constant, kept, normal

NEAREST = 1e-5
"""By how much what is compared differs at least, relative to its size."""


def biases(experts: int) -> np.ndarray:
    """Biases that change the order of some experts."""
    return np.where(np.arange(experts) % 3 == 1, 0.37, 0.0)


def apart(tokens: int, experts: int, spread: float = 4.0, bias: bool = False, **attributes: Any) -> Draw:
    """Logits of each token: numbers at nearly equal distances from `-spread` to `spread`, which 16-bit floats hold
    apart, in an order of their own in which sums of groups and biased scores lie apart as well."""
    levels = spread * (np.linspace(-1, 1, experts) + 0.1 * np.sin(7.0 * np.arange(experts)) / experts)

    def row(rng: np.random.Generator) -> Any:
        found = rng.permutation(levels)
        while not _are_apart(found, biases(experts) if bias else 0.0, **attributes):
            found = rng.permutation(levels)
        return found

    return Draw((tokens, experts), lambda rng: np.array([row(rng) for _ in range(tokens)]).reshape(tokens, experts))


def _are_apart(
    logits: Any, bias: Any, top_k: int, score: str = "softmax", groups: int = 1, groups_kept: int = 1, **_: Any
) -> bool:
    if groups == 1 and np.ndim(bias) == 0:
        return True
    odds = np.exp(logits)
    rank = (odds / (1 + odds) if score == "sigmoid" else odds / odds.sum() if score == "softmax" else logits) + bias
    by_group = rank.reshape(groups, -1)
    total = np.sort(by_group, axis=-1)[:, -2:].sum(axis=-1)
    best = by_group[np.argsort(-total)[:groups_kept]]
    return _differ(total, groups_kept) and _differ(best.ravel(), top_k)


def _differ(numbers: Any, count: int) -> bool:
    """Whether the `count` largest lie apart, and from the next one."""
    falling = -np.sort(-numbers)[: count + 1]
    return bool((-np.diff(falling) > NEAREST * np.abs(falling[:-1])).all())


def case(tokens: int, experts: int, top_k: int, name: str = "", *, tier: str = "smoke", **more: Any) -> Case:
    """A case whose logits lie apart; with `bias=True` one with a bias, with `scaled=True` with a scale of experts."""
    of_inputs = ("spread", "bias", "scaled", "dtype", "stage")
    attributes = {"top_k": top_k} | {n: v for n, v in more.items() if n not in of_inputs}
    bias = more.get("bias", False)
    logits = apart(tokens, experts, more.get("spread", 4.0), bias, **attributes)
    inputs = {"logits": kept(logits, more["dtype"]) if "dtype" in more else logits}
    if bias:
        inputs["bias"] = constant(biases(experts))
    if more.get("scaled", False):
        inputs["expert_scale"] = normal(experts)
    prefix = f"{more['stage']}:" if "stage" in more else ""
    words = f"T{tokens},E{experts},k{top_k}{',' + name if name else ''}"
    return Case(prefix + words, inputs, attributes, tier, 20 if tokens == 0 else None)


_GROUPS: dict[str, Any] = {"score": "sigmoid", "normalize": True, "scaling": 2.5, "bias": True, "groups": 4}

CASES = (
    case(3, 8, 2),
    case(3, 8, 2, "normalized", normalize=True),
    case(3, 8, 2, "of-chosen", score="softmax_of_chosen"),
    case(3, 8, 2, "sigmoid", score="sigmoid"),
    case(2, 5, 5, "all", normalize=True, scaling=0.5),
    case(1, 1, 1, "one"),
    case(3, 8, 3, "softmax,bias", bias=True),
    case(3, 8, 3, "expert-scale", scaled=True),
    case(3, 8, 3, "expert-scale,bias,scaled", scaled=True, bias=True, normalize=True, scaling=0.5),
    case(3, 8, 3, "expert-scale,of-chosen", scaled=True, score="softmax_of_chosen"),
    case(5, 16, 3, "sigmoid,bias,groups", groups_kept=2, **_GROUPS),
    Case(
        "groups-by-two",
        {"logits": constant([[3.0, -3.0, -3.0, 1.0, 0.9, -2.0, -4.0, -4.0, -4.0]])},
        {"top_k": 2, "score": "sigmoid", "groups": 3},
    ),
    Case("equal", {"logits": constant([[1.0, 2.0, 2.0, 1.0, 2.0], [0.0] * 5])}, {"top_k": 4}),
    Case("equal-below", {"logits": constant([[40.0, 41.0, 42.0, 43.0], [90.0, 80.0, 110.0, 100.0]])},
         {"top_k": 2, "score": "sigmoid"}),
    Case("negative-bias", {"logits": constant([[-3.0, -2.0, 1.0, 2.0, -1.0, -0.5, -4.0, -5.0]]),
                           "bias": constant([-2.0, -2.0, -2.0, -2.0, -1.0, -1.0, -3.0, -3.0])},
         {"top_k": 3, "score": "sigmoid", "groups": 2}),
    Case("far-apart", {"logits": constant([[1e4, -1e4, 9e3, 0.0], [-1e4, -9e3, -2e4, -3e4]])},
         {"top_k": 2, "score": "softmax_of_chosen"}),
    Case("weights-of-0", {"logits": constant([[-200.0, -150.0, -300.0]])},
         {"top_k": 2, "score": "sigmoid", "normalize": True}),
    case(0, 8, 2, "no tokens"),
    *(case(4, 16, 4, dtype, dtype=dtype, normalize=True) for dtype in ("bfloat16", "float16")),
    case(67, 128, 8, "normalized", tier="full", normalize=True),
    case(33, 256, 8, "groups", tier="full", groups_kept=4, **_GROUPS | {"groups": 8}, spread=4.0),
    case(17, 60, 4, tier="full"),
    case(1, 33, 17, "of-chosen", tier="full", score="softmax_of_chosen"),
    case(1, 128, 8, tier="bench", stage="decode", normalize=True),
    case(64, 128, 8, tier="bench", stage="prefill", normalize=True),
)  # fmt: skip

_L = normal(2, 8)

BAD_INPUTS = (
    BadInput("one axis", {"logits": normal(8)}, {"top_k": 2}, InvalidInputError, "moe_router: logits: expected shape"),
    BadInput(
        "bias too long",
        {"logits": _L, "bias": normal(9)},
        {"top_k": 2},
        InvalidInputError,
        "moe_router: bias: expected",
    ),
    BadInput(
        "expert_scale too short",
        {"logits": _L, "expert_scale": normal(7)},
        {"top_k": 2},
        InvalidInputError,
        "moe_router: expert_scale: expected",
    ),
    BadInput("no top_k", {"logits": _L}, {}, InvalidInputError, "moe_router: top_k must be given"),
    BadInput("too many", {"logits": _L}, {"top_k": 9}, InvalidInputError, "moe_router: top_k: expected at most the 8"),
    BadInput("no experts", {"logits": _L}, {"top_k": 0}, InvalidInputError, "moe_router: top_k: expected an integer"),
    BadInput(
        "more than are kept",
        {"logits": _L},
        {"top_k": 3, "groups": 4, "groups_kept": 1},
        InvalidInputError,
        "top_k: expected at most the 2 experts that are kept",
    ),
    BadInput("uneven groups", {"logits": _L}, {"top_k": 1, "groups": 3}, InvalidInputError, "moe_router: groups: exp"),
    BadInput("groups of one", {"logits": _L}, {"top_k": 1, "groups": 8}, InvalidInputError, "moe_router: groups: exp"),
    BadInput(
        "more groups kept than there are",
        {"logits": _L},
        {"top_k": 1, "groups": 2, "groups_kept": 3},
        InvalidInputError,
        "moe_router: groups_kept: expected at most the 2 groups",
    ),
    BadInput("score", {"logits": _L}, {"top_k": 1, "score": "relu"}, InvalidInputError, "score: expected one of"),
    BadInput("integers", {"logits": constant([[1, 2]])}, {"top_k": 1}, InvalidInputError, "logits: expected a float"),
)
