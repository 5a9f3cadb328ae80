"""scale: an array times a number, as the embeddings of Gemma and the multipliers of Granite are."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import number
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(xp: Any, x: Any, *, factor: float) -> Any:
    return x * factor


scale = OpSpec(
    name="scale",
    summary="An array times a number.",
    formula="y = factor x",
    source="Gemma, arXiv:2403.08295 (embeddings times sqrt(D)); Granite 3.0 (embeddings, residuals, logits)",
    inputs=(Input("x", "*B"),),
    attributes=(Attribute("factor", REQUIRED, number(), "the number"),),
    outputs=(Output("y", "*B"),),
    reference=_reference,
    flops=lambda call: prod(call.shape("x")),
    tolerance=2.0,  # the factor is rounded, then the product
    notes=(
        "The factor is rounded to float32, not to the 16 bits of x: a model that rounds it further gives it rounded.",
        "NaN gives NaN, as does inf times 0; a product beyond the dtype's numbers is inf or -inf (decision 23).",
    ),
    cases=(
        Case("5", {"x": normal(5)}, {"factor": 0.22}),
        Case("2x3x4", {"x": normal(2, 3, 4)}, {"factor": -12.0}),
        Case("scalar", {"x": constant(-1.5, "float64")}, {"factor": 3}),
        Case("embeddings", {"x": normal(3, 16, scale=0.02)}, {"factor": 2304**0.5}),
        Case("to zero", {"x": constant([1.0, -2.0, np.inf, np.nan])}, {"factor": 0.0}, decision=23),
        Case("NaN and infinity", {"x": constant([np.nan, np.inf, -np.inf, 6e4])}, {"factor": -2.5}, decision=23),
        Case("2x0x3", {"x": normal(2, 0, 3)}, {"factor": 2.0}, decision=20),
        Case("33x65", {"x": normal(33, 65)}, {"factor": 1 / 3}, tier="full"),
        Case("decode:1x2304", {"x": normal(1, 2304)}, {"factor": 48.0}, tier="bench"),
        Case("prefill:128x2304", {"x": normal(128, 2304)}, {"factor": 48.0}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:scale",
    bad_inputs=(
        BadInput("no factor", {"x": normal(3)}, {}, InvalidInputError, "scale: factor must be given"),
        BadInput(
            "factor infinite",
            {"x": normal(3)},
            {"factor": float("inf")},
            InvalidInputError,
            "scale: factor: expected a finite number",
        ),
        BadInput(
            "integers", {"x": integers(0, 9, 3)}, {"factor": 2.0}, InvalidInputError, "scale: x: expected a float dtype"
        ),
    ),
)
