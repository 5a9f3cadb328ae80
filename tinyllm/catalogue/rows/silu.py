"""silu: x times its own sigmoid."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.rows.sigmoid import sigmoid_of
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output


def silu_of(xp: Any, x: Any) -> Any:
    """`x sigmoid(x)`."""
    return x * sigmoid_of(xp, x)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """The sigmoid is between 0 and 1, and kernels may make it with an error relative to 1 (by tanh, say)."""
    return np.abs(inputs["x"])


silu = OpSpec(
    name="silu",
    summary="Sigmoid linear unit (swish): x times its own sigmoid.",
    formula="y = x / (1 + exp(-x))",
    source="Elfwing et al. 2017, arXiv:1702.03118; Ramachandran et al. 2017, arXiv:1710.05941",
    inputs=(Input("x", "*B"),),
    outputs=(Output("y", "*B"),),
    reference=silu_of,
    flops=lambda call: 4 * prod(call.shape("x")),
    scale=_scale,
    notes=("NaN gives NaN, inf gives inf, and -inf gives NaN: it is -inf times 0 (decision 23).",),
    refused={"inplace": "ops never write to their inputs"},
    cases=(
        Case("5", {"x": normal(5)}),
        Case("2x3x4", {"x": normal(2, 3, 4, scale=5.0)}),
        Case("scalar", {"x": constant(-1.5, "float64")}),
        Case("large", {"x": constant([-3e4, -100.0, -20.0, 0.0, 20.0, 100.0, 3e4], "float64")}),
        Case("NaN and infinity", {"x": constant([np.nan, np.inf, -np.inf, 1.0])}, decision=23),
        Case("0", {"x": normal(0)}, decision=20),
        Case("2x0x3", {"x": normal(2, 0, 3)}, decision=20),
        Case("33x65", {"x": normal(33, 65, scale=4.0)}, tier="full"),
        Case("decode:1x1536", {"x": normal(1, 1536)}, tier="bench"),
        Case("prefill:128x1536", {"x": normal(128, 1536)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:silu",
    bad_inputs=(
        BadInput("integers", {"x": integers(0, 9, 3)}, {}, InvalidInputError, "silu: x: expected a float dtype"),
        BadInput("a list", {"x": [1.0, 2.0]}, {}, InvalidInputError, "silu: x: expected a numpy array"),
    ),
)
