"""swiglu: the gated activation of Llama's feed-forward layer, and with limits that of gpt-oss's experts."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.rows.sigmoid import sigmoid_of
from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import number, optional
from tinyllm.spec.cases import BadInput, Case, constant, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output


def _reference(
    xp: Any, gate: Any, up: Any, *, limit: float | None = None, alpha: float = 1.0, up_offset: float = 0.0
) -> Any:
    if limit is not None:
        gate, up = xp.clip(gate, None, limit), xp.clip(up, -limit, limit)
    return gate * sigmoid_of(xp, alpha * gate) * (up + up_offset)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """As in `silu`, times the other factor."""
    gate, up, limit = inputs["gate"], inputs["up"], attributes["limit"]
    if limit is not None:
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return np.abs(gate * (up + attributes["up_offset"]))


def _case(*shape: int, tier: str = "smoke", name: str = "", decision: int | None = None) -> Case:
    return Case(
        name + "x".join(map(str, shape)),
        {"gate": normal(*shape, scale=3.0), "up": normal(*shape)},
        tier=tier,
        decision=decision,
    )


GPT_OSS = {"limit": 7.0, "alpha": 1.702, "up_offset": 1.0}

swiglu = OpSpec(
    name="swiglu",
    summary="Gated linear unit with silu as its gate.",
    formula="y = g sigmoid(alpha g) (u + up_offset), g = min(gate, limit), u = min(max(up, -limit), limit)",
    source="Shazeer 2020, arXiv:2002.05202; limits, alpha and offset: gpt-oss model card, arXiv:2508.10925",
    inputs=(
        Input("gate", "*B D", about="silu is applied to it"),
        Input("up", "*B D", about="multiplied by silu(gate)"),
    ),
    attributes=(
        Attribute(
            "limit", None, optional(number(above=0)), "gates above it, and ups beyond it on either side, become it"
        ),
        Attribute("alpha", 1.0, number(above=0), "a factor in the sigmoid"),
        Attribute("up_offset", 0.0, number(), "added to up, after the limit"),
    ),
    outputs=(Output("y", "*B D"),),
    reference=_reference,
    flops=lambda call: 5 * prod(call.dims["*B"]) * call.dims["D"],
    scale=_scale,
    notes=(
        "gpt-oss has limit=7, alpha=1.702 and up_offset=1.",
        "NaN in either input gives NaN, as do a gate of -inf, whose silu is NaN, and inf times 0 (decision 23). A "
        "limit makes a number of inf, and none of NaN.",
    ),
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
        Case("2x3x4,gpt-oss", {"gate": normal(2, 3, 4, scale=6.0), "up": normal(2, 3, 4, scale=6.0)}, GPT_OSS),
        Case("5,limit", {"gate": normal(5, scale=2.0), "up": normal(5, scale=2.0)}, {"limit": 0.75}),
        Case("5,alpha", {"gate": normal(5), "up": normal(5)}, {"alpha": 0.5}),
        Case("5,offset", {"gate": normal(5), "up": normal(5)}, {"up_offset": -0.5}),
        Case(
            "NaN and infinity,gpt-oss",
            {
                "gate": constant([np.nan, np.inf, 1.0, -np.inf, 1.0, 2.0, 2.0]),
                "up": constant([1.0, -2.0, np.nan, 1.0, np.inf, -np.inf, -1.0]),
            },
            GPT_OSS,
            decision=23,
        ),
        _case(0, 4, decision=20),
        _case(3, 0, decision=20),
        _case(33, 65, tier="full"),
        _case(1, 1536, tier="bench", name="decode:"),
        _case(128, 1536, tier="bench", name="prefill:"),
        Case("prefill:128x2880,gpt-oss", {"gate": normal(128, 2880), "up": normal(128, 2880)}, GPT_OSS, "bench"),
    ),
    more_cases="tinyllm.catalogue.cases.elements:swiglu",
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
        BadInput(
            "limit 0",
            {"gate": normal(2), "up": normal(2)},
            {"limit": 0.0},
            InvalidInputError,
            "swiglu: limit: expected None or a finite number above 0",
        ),
        BadInput(
            "alpha negative",
            {"gate": normal(2), "up": normal(2)},
            {"alpha": -1.0},
            InvalidInputError,
            "swiglu: alpha: expected a finite number above 0",
        ),
        BadInput(
            "offset infinite",
            {"gate": normal(2), "up": normal(2)},
            {"up_offset": float("inf")},
            InvalidInputError,
            "swiglu: up_offset: expected a finite number",
        ),
    ),
)
