"""sigmoid: what opens and shuts a gate."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output


def sigmoid_of(xp: Any, x: Any) -> Any:
    """`1 / (1 + exp(-x))`, for x < 0 as `exp(x) / (1 + exp(x))`, so that the exponential never overflows."""
    small = xp.exp(-xp.abs(x))
    return xp.where(x < 0, small, xp.ones((), dtype=x.dtype)) / (1 + small)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """As in `silu`, kernels may err relative to 1."""
    return np.ones_like(outputs)


sigmoid = OpSpec(
    name="sigmoid",
    summary="Logistic sigmoid: a number between 0 and 1, by which gates multiply.",
    formula="y = 1 / (1 + exp(-x))",
    source="Hochreiter and Schmidhuber 1997, Long Short-Term Memory (the gates)",
    inputs=(Input("x", "*B"),),
    outputs=(Output("y", "*B"),),
    reference=sigmoid_of,
    flops=lambda call: 3 * prod(call.shape("x")),
    scale=_scale,
    notes=("NaN gives NaN, inf gives 1, and -inf gives 0 (decision 23).",),
    refused={"inplace": "ops never write to their inputs"},
    cases=(
        Case("5", {"x": normal(5)}),
        Case("2x3x4", {"x": normal(2, 3, 4, scale=5.0)}),
        Case("scalar", {"x": constant(-1.5, "float64")}),
        Case("large", {"x": constant([-3e4, -100.0, -20.0, 0.0, 20.0, 100.0, 3e4], "float64")}),
        Case("NaN and infinity", {"x": constant([np.nan, np.inf, -np.inf, 1.0])}, decision=23),
        Case("2x0x3", {"x": normal(2, 0, 3)}, decision=20),
        Case("33x65", {"x": normal(33, 65, scale=4.0)}, tier="full"),
        Case("decode:1x2048", {"x": normal(1, 2048)}, tier="bench"),
        Case("prefill:128x2048", {"x": normal(128, 2048)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:sigmoid",
    bad_inputs=(
        BadInput("integers", {"x": integers(0, 9, 3)}, {}, InvalidInputError, "sigmoid: x: expected a float dtype"),
        BadInput("a list", {"x": [1.0, 2.0]}, {}, InvalidInputError, "sigmoid: x: expected a numpy array"),
    ),
)
