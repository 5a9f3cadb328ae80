"""softmax: scores turned into weights that sum to 1."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import integer
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.types import Call


def _reference(xp: Any, x: Any, *, axis: int = -1) -> Any:
    # y_i = exp(x_i) / sum_j exp(x_j): a factor exp(-max(x)) cancels out, and keeps every exponent at or below 0
    if x.shape[axis] == 0:
        return x
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    weights = xp.exp(shifted)
    return weights / xp.sum(weights, axis=axis, keepdims=True)


def _check(call: Call) -> None:
    rank, axis = len(call.shape("x")), call.attributes["axis"]
    if not -rank <= axis < rank:
        raise invalid("softmax", "axis", f"an axis of an array with {rank} axes", axis)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """`e_i + y_i sum_j e_j` with `e_i = y_i (1 + max(x) - x_i)`.

    The rounding error of `x_i - max(x)` is relative to its size, and exp makes it a relative error of a term. The 1 is
    for the rounding of exp and of the quotient. The sum has the errors of all terms, and each weight is divided by it.
    """
    axis = attributes.get("axis", -1)
    below_max = np.max(inputs["x"], axis=axis, keepdims=True, initial=-np.inf) - inputs["x"]
    errors = np.where(outputs > 0, outputs * (1 + below_max), 0.0)
    return errors + outputs * np.sum(errors, axis=axis, keepdims=True)


def _sums(inputs: Any, attributes: Any, outputs: Any, scale: Any, eps: float) -> Any:
    """Each weight is divided by the sum. One term may be most of it, and come first: all partial sums are as large as
    the whole then, and not a third of its square on average. And small ones are lost: whoever adds a term below half an
    ulp of the sum adds nothing. That goes to one side alone, and counts twice, so that the mean has all of it."""
    axis = attributes["axis"]
    lost = np.sum(np.where(outputs < eps, np.minimum(outputs / eps, 0.5), 0.0), axis=axis, keepdims=True)
    return ((3 * inputs["x"].shape[axis]) ** 0.5 + 2 * lost) * outputs


softmax = OpSpec(
    name="softmax",
    summary="Softmax along an axis, shifted by the maximum so that it never overflows.",
    formula="y_i = exp(x_i - max(x)) / sum_j exp(x_j - max(x))",
    source="Bridle 1990, Probabilistic Interpretation of Feedforward Classification Network Outputs",
    inputs=(Input("x", "*B", about="scores; 16-bit ones are accumulated in float32"),),
    attributes=(Attribute("axis", -1, integer(), "the axis whose weights sum to 1"),),
    outputs=(Output("y", "*B"),),
    reference=_reference,
    check=_check,
    flops=lambda call: 4 * prod(call.shape("x")),
    scale=_scale,
    sums=_sums,
    notes=(
        "A score of -inf gives a weight of 0. NaN or inf makes all weights along the axis NaN, and so does -inf where "
        "all scores are -inf (decision 23).",
    ),
    cases=(
        Case("5", {"x": normal(5)}),
        Case("3x7", {"x": normal(3, 7, scale=4.0)}),
        Case("2x3x4,axis1", {"x": normal(2, 3, 4)}, {"axis": 1}),
        Case("1x1", {"x": normal(1, 1)}),
        Case(
            "NaN and infinity",
            {
                "x": constant(
                    [[1.0, 2.0, np.nan], [1.0, np.inf, 2.0], [-np.inf, 1.0, 2.0], [-np.inf] * 3, [0.0, 1.0, 2.0]]
                )
            },
            decision=23,
        ),
        Case("3x0", {"x": normal(3, 0)}, decision=20),
        Case("0x4", {"x": normal(0, 4)}, decision=20),
        Case("large", {"x": constant([[1e4, 1e4 - 1, -1e4], [3e4, 3e4, 3e4]], "float64")}),
        Case("4x1000", {"x": normal(4, 1000, scale=3.0)}, tier="full"),
        Case("decode:9x512", {"x": normal(9, 512)}, tier="bench"),
        Case("prefill:9x128x128", {"x": normal(9, 128, 128)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.rows:softmax",
    bad_inputs=(
        BadInput(
            "axis out of range", {"x": normal(2, 3)}, {"axis": 2}, InvalidInputError, "softmax: axis: expected an axis"
        ),
        BadInput("integers", {"x": constant([1, 2])}, {}, InvalidInputError, "softmax: x: expected a float dtype"),
        BadInput(
            "axis not an integer",
            {"x": normal(2, 3)},
            {"axis": 0.5},
            InvalidInputError,
            "softmax: axis: expected an integer",
        ),
    ),
)
