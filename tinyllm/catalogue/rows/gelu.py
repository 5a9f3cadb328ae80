"""gelu: x times the probability that a standard normal variable is below x."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import choice
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output

BORDER = 2.0
"""Below it erf is computed by a series of positive terms, above it erfc by a continued fraction: each where it
converges quickly."""


def _erf_near(z: Any) -> Any:
    """`exp(z^2) erf(z)` for |z| <= 2: `2 / sqrt(pi) sum_n 2^n z^(2n+1) / (2n+1)!!`, by Horner's rule from n = 45 down.

    Source: Abramowitz and Stegun 1964, 7.1.6.
    """
    square, total = z * z, 1.0
    for n in range(45, 0, -1):
        total = 1 + square * (2 / (2 * n + 1)) * total
    return z * total * (2 / math.sqrt(math.pi))


def _erfc_far(z: Any) -> Any:
    """`exp(z^2) erfc(z)` for z >= 2: `1 / sqrt(pi) / (z + (1/2) / (z + (2/2) / (z + (3/2) / (z + ...))))`, 60 levels.

    Source: Abramowitz and Stegun 1964, 7.1.14.
    """
    denominator = z
    for n in range(60, 0, -1):
        denominator = z + (n / 2) / denominator
    return (1 / math.sqrt(math.pi)) / denominator


def normal_cdf(xp: Any, x: Any) -> Any:
    """The probability `(1 + erf(x / sqrt(2))) / 2` that a standard normal variable is below x, in the shape of x.

    The array API has no erf, so it is computed from exp, in the lower tail without the cancellation in `1 + erf`.
    """
    z = x * math.sqrt(0.5)
    near = xp.clip(z, -BORDER, BORDER)
    far = xp.clip(xp.abs(z), BORDER, 30.0)
    inner = 0.5 * (1 + _erf_near(near) * xp.exp(-near * near))
    tail = 0.5 * _erfc_far(far) * xp.exp(-far * far)
    outer = xp.where(z < 0, tail, 1 - tail)
    return xp.where(xp.abs(z) < BORDER, inner, outer)


def gelu_of(xp: Any, x: Any, *, approximate: str = "none") -> Any:
    """The formula, exact or by tanh."""
    if approximate == "tanh":
        return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return x * normal_cdf(xp, x)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """The second factor is between 0 and 1 and may be made by `1 + erf` or `1 + tanh`, whose error is relative to 1."""
    return np.abs(inputs["x"])


TANH = {"approximate": "tanh"}

gelu = OpSpec(
    name="gelu",
    summary="Gaussian error linear unit, exact or by tanh.",
    formula="y = x/2 (1 + erf(x/sqrt(2))); tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
    source="Hendrycks and Gimpel 2016, arXiv:1606.08415",
    inputs=(Input("x", "*B"),),
    attributes=(
        Attribute(
            "approximate", "none", choice("none", "tanh"), "the exact function, or the formula that GPT-2 and Gemma use"
        ),
    ),
    outputs=(Output("y", "*B"),),
    reference=gelu_of,
    flops=lambda call: (9 if call.attributes["approximate"] == "tanh" else 5) * math.prod(call.shape("x")),
    scale=_scale,
    notes=("Of both formulas NaN gives NaN, inf gives inf, and -inf gives NaN: it is -inf times 0 (decision 23).",),
    cases=(
        Case("5", {"x": normal(5)}),
        Case("2x3x4", {"x": normal(2, 3, 4, scale=3.0)}),
        Case("2x3x4,tanh", {"x": normal(2, 3, 4, scale=3.0)}, TANH),
        Case("scalar", {"x": constant(-0.75, "float64")}),
        Case("large", {"x": constant([-3e4, -100.0, -8.0, -3.0, -2.8, 0.0, 2.8, 3.0, 8.0, 100.0, 3e4], "float64")}),
        Case("large,tanh", {"x": constant([-3e4, -100.0, -8.0, 0.0, 8.0, 100.0, 3e4], "float64")}, TANH),
        Case("NaN and infinity", {"x": constant([np.nan, np.inf, -np.inf, 1.0])}, decision=23),
        Case("NaN and infinity,tanh", {"x": constant([np.nan, np.inf, -np.inf, 1.0])}, TANH, decision=23),
        Case("0", {"x": normal(0)}, decision=20),
        Case("2x0x3,tanh", {"x": normal(2, 0, 3)}, TANH, decision=20),
        Case("33x65", {"x": normal(33, 65, scale=3.0)}, tier="full"),
        Case("33x65,tanh", {"x": normal(33, 65, scale=3.0)}, TANH, tier="full"),
        Case("decode:1x1536", {"x": normal(1, 1536)}, tier="bench"),
        Case("prefill:128x1536", {"x": normal(128, 1536)}, tier="bench"),
        Case("prefill:128x1536,tanh", {"x": normal(128, 1536)}, TANH, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:gelu",
    bad_inputs=(
        BadInput("integers", {"x": integers(0, 9, 3)}, {}, InvalidInputError, "gelu: x: expected a float dtype"),
        BadInput(
            "sigmoid",
            {"x": normal(3)},
            {"approximate": "sigmoid"},
            InvalidInputError,
            "approximate: expected one of 'none', 'tanh'",
        ),
        BadInput(
            "True", {"x": normal(3)}, {"approximate": True}, InvalidInputError, "gelu: approximate: expected one of"
        ),
    ),
)
