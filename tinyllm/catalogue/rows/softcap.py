"""softcap: numbers held within a cap, as the logits of Gemma 2 are."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import number
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal
from tinyllm.spec.op_spec import REQUIRED, Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(xp: Any, x: Any, *, cap: float) -> Any:
    return cap * xp.tanh(x / cap)


softcap = OpSpec(
    name="softcap",
    summary="Holds numbers within a cap, smoothly.",
    formula="y = cap tanh(x / cap)",
    source="Bello et al. 2016, arXiv:1611.09940; Gemma 2, arXiv:2408.00118",
    inputs=(Input("x", "*B"),),
    attributes=(Attribute("cap", REQUIRED, number(above=0), "no output is larger"),),
    outputs=(Output("y", "*B"),),
    reference=_reference,
    flops=lambda call: 3 * prod(call.shape("x")),
    notes=("NaN gives NaN; inf gives the cap, and -inf the cap below 0 (decision 23).",),
    cases=(
        Case("5", {"x": normal(5, scale=3.0)}, {"cap": 2.0}),
        Case("2x3x4", {"x": normal(2, 3, 4, scale=20.0)}, {"cap": 30.0}),
        Case("scalar", {"x": constant(-1.5, "float64")}, {"cap": 1}),
        Case("small", {"x": normal(9, scale=1e-3)}, {"cap": 50.0}),
        Case("large", {"x": constant([-3e4, -100.0, -20.0, 0.0, 20.0, 100.0, 3e4], "float64")}, {"cap": 30.0}),
        Case("NaN and infinity", {"x": constant([np.nan, np.inf, -np.inf, 1.0])}, {"cap": 30.0}, decision=23),
        Case("2x0x3", {"x": normal(2, 0, 3)}, {"cap": 30.0}, decision=20),
        Case("33x65", {"x": normal(33, 65, scale=40.0)}, {"cap": 30.0}, tier="full"),
        Case("decode:1x32000", {"x": normal(1, 32000, scale=20.0)}, {"cap": 30.0}, tier="bench"),
        Case("prefill:9x32000", {"x": normal(9, 32000, scale=20.0)}, {"cap": 30.0}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:softcap",
    bad_inputs=(
        BadInput("no cap", {"x": normal(3)}, {}, InvalidInputError, "softcap: cap must be given"),
        BadInput(
            "cap 0",
            {"x": normal(3)},
            {"cap": 0.0},
            InvalidInputError,
            "softcap: cap: expected a finite number above 0",
        ),
        BadInput(
            "integers", {"x": integers(0, 9, 3)}, {"cap": 2.0}, InvalidInputError, "softcap: x: expected a float dtype"
        ),
    ),
)
