"""swiglu: the gated activation of Llama's feed-forward layer."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.rows.silu import silu_of
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(xp: Any, gate: Any, up: Any) -> Any:
    return silu_of(xp, gate) * up


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """As in `silu`, times the other factor."""
    return np.abs(inputs["gate"] * inputs["up"])


def _case(*shape: int, tier: str = "smoke", name: str = "", decision: int | None = None) -> Case:
    return Case(
        name + "x".join(map(str, shape)),
        {"gate": normal(*shape, scale=3.0), "up": normal(*shape)},
        tier=tier,
        decision=decision,
    )


swiglu = OpSpec(
    name="swiglu",
    summary="Gated linear unit with silu as its gate.",
    formula="y = silu(gate) up",
    source="Shazeer 2020, arXiv:2002.05202",
    inputs=(
        Input("gate", "*B D", about="silu is applied to it"),
        Input("up", "*B D", about="multiplied by silu(gate)"),
    ),
    outputs=(Output("y", "*B D"),),
    reference=_reference,
    flops=lambda call: 5 * prod(call.dims["*B"]) * call.dims["D"],
    scale=_scale,
    notes=("NaN in either input gives NaN, as do a gate of -inf, whose silu is NaN, and inf times 0 (decision 23).",),
    cases=(
        _case(5),
        _case(2, 3, 4),
        Case("broadcast 2x1x4,3x4", {"gate": normal(2, 1, 4), "up": normal(3, 4)}),
        Case(
            "large",
            {
                "gate": constant([-3e4, -100.0, 0.0, 100.0], "float64"),
                "up": constant([2.0, -3.0, 5.0, -7.0], "float64"),
            },
        ),
        Case(
            "NaN and infinity",
            {
                "gate": constant([np.nan, np.inf, np.inf, -np.inf, 1.0, 0.0, 2.0]),
                "up": constant([1.0, -2.0, 0.0, 1.0, np.nan, np.inf, -np.inf]),
            },
            decision=23,
        ),
        _case(0, 4, decision=20),
        _case(3, 0, decision=20),
        _case(33, 65, tier="full"),
        _case(1, 1536, tier="bench", name="decode:"),
        _case(128, 1536, tier="bench", name="prefill:"),
    ),
    more_cases="tinyllm.catalogue.cases.rows:swiglu",
    bad_inputs=(
        BadInput(
            "D differs", {"gate": normal(2, 3), "up": normal(2, 4)}, {}, InvalidInputError, "swiglu: up: expected shape"
        ),
        BadInput(
            "batches 2 and 3",
            {"gate": normal(2, 3), "up": normal(3, 3)},
            {},
            InvalidInputError,
            "swiglu: up: expected leading axes",
        ),
        BadInput(
            "no axes",
            {"gate": constant(1.0), "up": constant(1.0)},
            {},
            InvalidInputError,
            "swiglu: gate: expected shape",
        ),
    ),
)
