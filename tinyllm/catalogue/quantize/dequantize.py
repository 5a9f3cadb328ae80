"""dequantize: the float matrix that a quantized weight stands for."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.quantize.packing import dequantized, magnitude
from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import choice
from tinyllm.spec.cases import BadInput, Case, Draw, normal, quantized
from tinyllm.spec.op_spec import Attribute, Input, OpSpec, Output
from tinyllm.spec.quantized import BITS, QuantWeight
from tinyllm.spec.types import FLOATS

DTYPE = Attribute("dtype", "float32", choice(*FLOATS), "of the output; computed in float32 and rounded once")


def _reference(xp: Any, weight: QuantWeight, *, dtype: str = "float32") -> Any:
    return dequantized(xp, weight)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    return magnitude(inputs["weight"])


def permuted(rows: int, columns: int, **settings: Any) -> Draw:
    """A quantized weight whose columns are stored in another order than the inputs."""
    plain = quantized(rows, columns, **settings)

    def make(rng: Any) -> QuantWeight:
        weight: QuantWeight = plain.make(rng)
        return weight.with_arrays({**weight.arrays, "permutation": rng.permutation(columns).astype(np.int32)})

    return Draw(plain.shape, make)


def wide(rows: int, columns: int, **settings: Any) -> Draw:
    """A quantized weight with float32 scales and biases that float16 does not hold."""
    plain = quantized(rows, columns, **settings)

    def make(rng: Any) -> QuantWeight:
        weight: QuantWeight = plain.make(rng)
        factor = np.float32(1 / 3)
        return weight.with_arrays(
            {k: a if k == "q" else a.astype(np.float32) * factor for k, a in weight.arrays.items()}
        )

    return Draw(plain.shape, make)


def stacked(count: int, rows: int, columns: int, **settings: Any) -> Draw:
    """A stack of quantized weights, as experts are."""
    plain = quantized(rows, columns, **settings)

    def make(rng: Any) -> QuantWeight:
        parts: list[QuantWeight] = [plain.make(rng) for _ in range(count)]
        arrays = {k: np.stack([p.arrays[k] for p in parts]) for k in parts[0].arrays}
        return replace(parts[0], arrays=arrays, shape=(count, rows, columns))

    return Draw((count, rows, columns), make)


dequantize = OpSpec(
    name="dequantize",
    summary="The float matrix that a quantized weight stands for.",
    formula="w = scale * q + bias (int8: w = scale * q), scale and bias those of the group",
    source="Jacob et al. 2018, arXiv:1712.05877; format as MLX's mlx.core.dequantize",
    inputs=(Input("weight", "*B N K", "quant"),),
    attributes=(DTYPE,),
    outputs=(Output("w", "*B N K", "=dtype"),),
    reference=_reference,
    flops=lambda call: 2 * prod(call.shape("weight")),
    scale=_scale,
    notes=("Computed in float32 and rounded once, whatever the dtype of the scales.",),
    cases=(
        *(Case(f"2x96,affine{bits}/32", {"weight": quantized(2, 96, bits=bits)}) for bits in BITS),
        Case("3x64,int8/32", {"weight": quantized(3, 64, scheme="int8", bits=8)}),
        Case("3x16,affine4/8", {"weight": quantized(3, 16, group_size=8)}),
        Case("2x64,float32 scales", {"weight": wide(2, 64)}),
        Case("2x64,permuted", {"weight": permuted(2, 64)}),
        Case("3x2x64,stacked", {"weight": stacked(3, 2, 64)}),
        Case("2x64,to float16", {"weight": quantized(2, 64)}, {"dtype": "float16"}),
        Case("2x64,to bfloat16", {"weight": quantized(2, 64)}, {"dtype": "bfloat16"}),
        Case("0x64", {"weight": quantized(0, 64)}, decision=20),
        Case("33x1536,affine4/32", {"weight": quantized(33, 1536)}, tier="full"),
        Case("16x1024,affine3/128", {"weight": quantized(16, 1024, bits=3, group_size=128)}, tier="full"),
        Case("prefill:1536x576,affine4/32", {"weight": quantized(1536, 576)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.quantized:dequantize",
    bad_inputs=(
        BadInput(
            "an array", {"weight": normal(2, 64)}, {}, InvalidInputError, "dequantize: weight: expected a QuantWeight"
        ),
        BadInput("dtype int8", {"weight": quantized(2, 64)}, {"dtype": "int8"}, InvalidInputError, "dequantize: dtype"),
    ),
)
