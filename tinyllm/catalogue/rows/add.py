"""add: the sum of two arrays, as the residual connection needs it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(xp: Any, x: Any, y: Any) -> Any:
    return x + y


def _case(*shape: int, tier: str = "smoke", name: str = "", decision: int | None = None) -> Case:
    return Case(
        name + "x".join(map(str, shape)), {"x": normal(*shape), "y": normal(*shape)}, tier=tier, decision=decision
    )


add = OpSpec(
    name="add",
    summary="The sum of two arrays; leading axes broadcast, the last one does not.",
    formula="z = x + y",
    source="He et al. 2015, arXiv:1512.03385 (the residual connection)",
    inputs=(Input("x", "*B D"), Input("y", "*B D")),
    outputs=(Output("z", "*B D"),),
    reference=_reference,
    flops=lambda call: prod(call.dims["*B"]) * call.dims["D"],
    tolerance=1.0,  # one operation, which rounds once
    notes=("NaN gives NaN, as does inf - inf; a sum beyond the dtype's numbers is inf or -inf (decision 23).",),
    cases=(
        _case(5),
        _case(2, 3, 4),
        Case("broadcast 2x1x4,3x4", {"x": normal(2, 1, 4), "y": normal(3, 4)}),
        Case(
            "cancels", {"x": constant([1.0, -2.0, 1024.0], "float64"), "y": constant([-1.0, 2.0, -1023.5], "float64")}
        ),
        Case(
            "NaN and infinity",
            {
                "x": constant([np.nan, 1.0, np.inf, np.inf, -np.inf, 6e4]),
                "y": constant([1.0, np.nan, -1.0, -np.inf, -np.inf, 6e4]),
            },
            decision=23,
        ),
        _case(0, 4, decision=20),
        _case(3, 0, decision=20),
        _case(33, 65, tier="full"),
        _case(1, 576, tier="bench", name="decode:"),
        _case(128, 576, tier="bench", name="prefill:"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:add",
    bad_inputs=(
        BadInput("D differs", {"x": normal(2, 3), "y": normal(2, 1)}, {}, InvalidInputError, "add: y: expected shape"),
        BadInput(
            "batches 2 and 3",
            {"x": normal(2, 3), "y": normal(3, 3)},
            {},
            InvalidInputError,
            "add: y: expected leading axes",
        ),
        BadInput(
            "integers",
            {"x": constant([1, 2]), "y": constant([1, 2])},
            {},
            InvalidInputError,
            "add: x: expected a float dtype",
        ),
    ),
)
