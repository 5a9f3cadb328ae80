"""rms_norm: every row divided by its root mean square."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.spec.attribute_checks import number
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def normed(xp: Any, x: Any, weight: Any, *, eps: float = 1e-6, offset: float = 0.0) -> Any:
    """The formula, over the last axis."""
    if x.shape[-1] == 0:  # the mean of nothing
        return x
    return x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps) * (offset + weight)


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    """The root halves the error of the sum."""
    return inputs["x"].shape[-1] ** 0.5 * abs(outputs) / 2


def _case(
    *shape: int, eps: float | None = None, tier: str = "smoke", name: str = "", decision: int | None = None
) -> Case:
    id = name + "x".join(map(str, shape)) + (f",eps{eps:g}" if eps is not None else "")
    return Case(
        id, {"x": normal(*shape), "weight": normal(shape[-1])}, {} if eps is None else {"eps": eps}, tier, decision
    )


rms_norm = OpSpec(
    name="rms_norm",
    summary="Divides each row by its root mean square and multiplies by a weight.",
    formula="y = x / sqrt(mean(x^2) + eps) * (offset + weight)",
    source="Zhang and Sennrich 2019, arXiv:1910.07467",
    inputs=(Input("x", "*B D"), Input("weight", "D")),
    attributes=(
        Attribute("eps", 1e-6, number(minimum=0), "keeps a row of zeros from dividing by zero"),
        Attribute("offset", 0.0, number(), "added to the weight; 1 for Gemma, whose weights are stored less 1"),
    ),
    outputs=(Output("y", "*B D"),),
    reference=normed,
    flops=lambda call: 4 * prod(call.shape("x")),
    sums=_sums,
    notes=(
        "16-bit x is normed and weighted in float32 and rounded once (transformers rounds before the weight).",
        "The offset is added to the weight in float32: a weight of 16 bits that had it added would lose digits.",
        "NaN makes its whole row NaN. inf and -inf give NaN where they stand and 0 elsewhere in the row (decision 23).",
    ),
    refused={"normalized_shape": "it is always the last axis"},
    cases=(
        _case(4),
        _case(3, 8),
        _case(2, 3, 5, eps=1e-5),
        _case(2, 1, eps=0.0),
        Case("2x5,offset1", {"x": normal(2, 5), "weight": normal(5, scale=0.1)}, {"offset": 1.0}),
        Case("zeros", {"x": constant([[0.0] * 4, [1.0, -1.0, 0.0, 2.0]], "float64"), "weight": normal(4)}),
        Case("eps rules", {"x": normal(2, 4, scale=1e-3), "weight": normal(4)}, {"eps": 1.0}),
        Case("large", {"x": constant([[3e4, -2e4, 1e4, 0.0]], "float64"), "weight": normal(4)}),
        Case(
            "NaN and infinity",
            {
                "x": constant([[1.0, np.nan, 2.0], [1.0, np.inf, 2.0], [-np.inf, 1.0, 2.0], [1.0, 2.0, 3.0]]),
                "weight": normal(3),
            },
            tier="full",
            decision=23,
        ),
        _case(0, 4, decision=20),
        _case(3, 0, decision=20),
        _case(7, 1000, tier="full"),
        _case(2, 33, 65, tier="full"),
        _case(1, 576, eps=1e-5, tier="bench", name="decode:"),
        _case(128, 576, eps=1e-5, tier="bench", name="prefill:"),
    ),
    more_cases="tinyllm.catalogue.cases.rows:rms_norm",
    bad_inputs=(
        BadInput(
            "weight too long",
            {"x": normal(2, 3), "weight": normal(4)},
            {},
            InvalidInputError,
            "rms_norm: weight: expected shape",
        ),
        BadInput(
            "weight 2-d",
            {"x": normal(2, 3), "weight": normal(1, 3)},
            {},
            InvalidInputError,
            "rms_norm: weight: expected shape",
        ),
        BadInput(
            "no axes", {"x": constant(1.0), "weight": normal(1)}, {}, InvalidInputError, "rms_norm: x: expected shape"
        ),
        BadInput(
            "eps negative",
            {"x": normal(2, 3), "weight": normal(3)},
            {"eps": -1e-6},
            InvalidInputError,
            "rms_norm: eps: expected",
        ),
        BadInput(
            "offset NaN",
            {"x": normal(2, 3), "weight": normal(3)},
            {"offset": float("nan")},
            InvalidInputError,
            "rms_norm: offset: expected a finite number",
        ),
        BadInput(
            "shape",
            {"x": normal(2, 3), "weight": normal(3)},
            {"normalized_shape": 3},
            UnsupportedError,
            "always the last axis",
        ),
    ),
)
