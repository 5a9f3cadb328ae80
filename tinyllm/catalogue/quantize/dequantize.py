"""dequantize: the float matrix that a quantized weight stands for."""

from __future__ import annotations

from math import prod
from typing import Any

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, normal, quantized
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.quantized import dense, magnitude
from tinyllm.spec.scheme import QuantWeight


def _reference(xp: Any, weight: QuantWeight) -> Any:
    return dense(xp, weight, xp.float64 if weight.dtype == "float64" else xp.float32)


_FOUR = Affine(4, 32)

dequantize = OpSpec(
    name="dequantize",
    summary="The float matrix that a quantized weight stands for.",
    formula="the scheme's, e.g. affine: w = scale * q + bias, scale and bias those of the group",
    source="Jacob et al. 2018, arXiv:1712.05877; the schemes name theirs",
    inputs=(Input("weight", "*B N K", "quant"),),
    outputs=(Output("w", "*B N K"),),
    reference=_reference,
    flops=lambda call: 2 * prod(call.shape("weight")),
    scale=lambda inputs, attributes, outputs: magnitude(inputs["weight"]),
    notes=("Computed in float32 and rounded once to the dtype that the weight says, whatever that of its scales.",),
    cases=(
        Case("33x1536,affine4/32", {"weight": quantized(_FOUR, 33, 1536)}, tier="full"),
        Case("16x1024,affine3/128", {"weight": quantized(Affine(3, 128), 16, 1024)}, tier="full"),
        Case("prefill:1536x576,affine4/32", {"weight": quantized(_FOUR, 1536, 576)}, tier="bench"),
    ),
    scheme_cases="tinyllm.catalogue.cases.schemes:dequantize",
    bad_inputs=(
        BadInput(
            "an array",
            {"weight": normal(2, 64)},
            {},
            InvalidInputError,
            "dequantize: weight: expected a QuantWeight",
        ),
    ),
)
