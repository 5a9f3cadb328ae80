"""mul: the product of two arrays, element by element, as gates need it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.types import Call


def _reference(xp: Any, x: Any, y: Any) -> Any:
    return x * y


def _check(call: Call) -> None:
    if call.dims["E"] not in (1, call.dims["D"]):
        raise invalid("mul", "y", f"a last axis of {call.dims['D']}, as x has, or of 1", call.shape("y"))


def _case(*shape: int, tier: str = "smoke", name: str = "", decision: int | None = None) -> Case:
    return Case(
        name + "x".join(map(str, shape)), {"x": normal(*shape), "y": normal(*shape)}, tier=tier, decision=decision
    )


mul = OpSpec(
    name="mul",
    summary="The product of two arrays, element by element; leading axes broadcast, and y may have one number a row.",
    formula="z = x y",
    source="Hochreiter and Schmidhuber 1997, Long Short-Term Memory (the gates)",
    inputs=(
        Input("x", "*B D"),
        Input("y", "*B E", about="E is D, or 1: a factor of the whole row, as of a shared expert's gate"),
    ),
    outputs=(Output("z", "*B D"),),
    reference=_reference,
    check=_check,
    flops=lambda call: prod(call.dims["*B"]) * call.dims["D"],
    tolerance=1.0,  # one operation, which rounds once
    notes=("NaN gives NaN, as does inf times 0; a product beyond the dtype's numbers is inf or -inf (decision 23).",),
    cases=(
        _case(5),
        _case(2, 3, 4),
        Case("broadcast 2x1x4,3x4", {"x": normal(2, 1, 4), "y": normal(3, 4)}),
        Case("a number a row 3x4,3x1", {"x": normal(3, 4), "y": normal(3, 1)}),
        Case("broadcast 2x1x5,3x1", {"x": normal(2, 1, 5), "y": normal(3, 1)}),
        Case(
            "NaN and infinity",
            {
                "x": constant([np.nan, 1.0, np.inf, np.inf, -np.inf, 6e4]),
                "y": constant([1.0, np.nan, 0.0, -np.inf, -np.inf, 6e4]),
            },
            decision=23,
        ),
        Case("0x4,0x1", {"x": normal(0, 4), "y": normal(0, 1)}, decision=20),
        Case("3x0,3x1", {"x": normal(3, 0), "y": normal(3, 1)}, decision=20),
        _case(3, 0, decision=20),
        _case(33, 65, tier="full"),
        _case(1, 2048, tier="bench", name="decode:"),
        _case(128, 2048, tier="bench", name="prefill:"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:mul",
    bad_inputs=(
        BadInput(
            "D differs",
            {"x": normal(2, 3), "y": normal(2, 2)},
            {},
            InvalidInputError,
            "mul: y: expected a last axis of 3, as x has, or of 1",
        ),
        BadInput(
            "one number of x",
            {"x": normal(2, 1), "y": normal(2, 3)},
            {},
            InvalidInputError,
            "mul: y: expected a last axis of 1, as x has",
        ),
        BadInput(
            "batches 2 and 3",
            {"x": normal(2, 3), "y": normal(3, 3)},
            {},
            InvalidInputError,
            "mul: y: expected leading axes",
        ),
        BadInput(
            "integers",
            {"x": constant([1, 2]), "y": constant([1, 2])},
            {},
            InvalidInputError,
            "mul: x: expected a float dtype",
        ),
    ),
)
