"""geglu: the gated activation of Gemma's feed-forward layer."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.rows.gelu import gelu_of
from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import choice
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(xp: Any, gate: Any, up: Any, *, approximate: str = "tanh") -> Any:
    return gelu_of(xp, gate, approximate=approximate) * up


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """As in `gelu`, times the other factor."""
    return np.abs(inputs["gate"] * inputs["up"])


def _pair(*shape: int) -> dict[str, Any]:
    return {"gate": normal(*shape, scale=3.0), "up": normal(*shape)}


EXACT = {"approximate": "none"}

geglu = OpSpec(
    name="geglu",
    summary="Gated linear unit with gelu as its gate.",
    formula="y = gelu(gate) up",
    source="Shazeer 2020, arXiv:2002.05202; Gemma, arXiv:2403.08295",
    inputs=(
        Input("gate", "*B D", about="gelu is applied to it"),
        Input("up", "*B D", about="multiplied by gelu(gate)"),
    ),
    attributes=(
        Attribute("approximate", "tanh", choice("none", "tanh"), "the exact function, or the formula that Gemma uses"),
    ),
    outputs=(Output("y", "*B D"),),
    reference=_reference,
    flops=lambda call: (10 if call.attributes["approximate"] == "tanh" else 6) * prod(call.dims["*B"]) * call.dims["D"],
    scale=_scale,
    notes=(
        "Unlike in `gelu`, the formula by tanh is the default: that of the models that have this op.",
        "NaN in either input gives NaN, as do a gate of -inf, whose gelu is NaN, and inf times 0 (decision 23).",
    ),
    cases=(
        Case("5", _pair(5)),
        Case("2x3x4", _pair(2, 3, 4)),
        Case("2x3x4,none", _pair(2, 3, 4), EXACT),
        Case("broadcast 2x1x4,3x4", {"gate": normal(2, 1, 4), "up": normal(3, 4)}),
        Case(
            "large",
            {
                "gate": constant([-3e4, -100.0, -3.0, 0.0, 3.0, 100.0], "float64"),
                "up": constant([2.0, -3.0, 5.0, 5.0, -7.0, 0.5], "float64"),
            },
        ),
        *(
            Case(
                f"NaN and infinity,{approximate}",
                {
                    "gate": constant([np.nan, np.inf, np.inf, -np.inf, 1.0, 0.0, 2.0]),
                    "up": constant([1.0, -2.0, 0.0, 1.0, np.nan, np.inf, -np.inf]),
                },
                {"approximate": approximate},
                decision=23,
            )
            for approximate in ("tanh", "none")
        ),
        Case("0x4", _pair(0, 4), decision=20),
        Case("3x0", _pair(3, 0), EXACT, decision=20),
        Case("33x65", _pair(33, 65), tier="full"),
        Case("decode:1x9216", _pair(1, 9216), tier="bench"),
        Case("prefill:128x2304", _pair(128, 2304), tier="bench"),
        Case("prefill:128x2304,none", _pair(128, 2304), EXACT, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:geglu",
    bad_inputs=(
        BadInput(
            "D differs", {"gate": normal(2, 3), "up": normal(2, 4)}, {}, InvalidInputError, "geglu: up: expected shape"
        ),
        BadInput(
            "batches 2 and 3",
            {"gate": normal(2, 3), "up": normal(3, 3)},
            {},
            InvalidInputError,
            "geglu: up: expected leading axes",
        ),
        BadInput(
            "sigmoid",
            _pair(2),
            {"approximate": "sigmoid"},
            InvalidInputError,
            "geglu: approximate: expected one of 'none', 'tanh'",
        ),
    ),
)
