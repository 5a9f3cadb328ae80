"""quantized_linear: a linear map whose weight is quantized."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.quantize.dequantize import permuted, wide
from tinyllm.catalogue.quantize.packing import dequantized, magnitude
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import BadInput, Case, Draw, normal, quantized
from tinyllm.spec.op_spec import Input, OpSpec, Output
from tinyllm.spec.quantized import BITS, QuantWeight
from tinyllm.spec.types import Call


def _reference(xp: Any, x: Any, weight: QuantWeight, *, bias: Any = None) -> Any:
    w = xp.astype(dequantized(xp, weight), x.dtype)
    y = xp.matmul(x, xp.permute_dims(w, (1, 0))) if x.ndim > 1 else xp.sum(xp.expand_dims(x, axis=0) * w, axis=-1)
    return y if bias is None else y + bias


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    size = np.abs(inputs["x"]) @ magnitude(inputs["weight"]).T
    return size if inputs.get("bias") is None else size + np.abs(inputs["bias"])


def _flops(call: Call) -> int:
    return int(2 * prod(call.shape("x")) * call.shape("weight")[0])


def _case(name: str, rows: tuple[int, ...], weight: Draw, bias: bool = False, tier: str = "smoke") -> Case:
    n, k = weight.shape
    inputs = {"x": normal(*rows, k), "weight": weight} | ({"bias": normal(n)} if bias else {})
    start, _, rest = name.rpartition(":")
    lead = "".join(f"{r}x" for r in rows)
    return Case(f"{start}{':' if start else ''}{lead}{k},N{n},{rest}{',bias' if bias else ''}", inputs, tier=tier)


quantized_linear = OpSpec(
    name="quantized_linear",
    summary="Matrix product with a quantized weight, row by output, plus an optional bias.",
    formula="y = x dequantize(W)^T + b",
    source="Dettmers et al. 2022, arXiv:2208.07339; MLX, mlx.core.quantized_matmul",
    inputs=(
        Input("x", "*B K"),
        Input("weight", "N K", "quant", about="a row for every output"),
        Input("bias", "N", optional=True),
    ),
    outputs=(Output("y", "*B N"),),
    reference=_reference,
    flops=_flops,
    scale=_scale,
    reference_errs=True,
    notes=(
        "Scales stay exact; a kernel that rounds activations to integers is not exact, and runs only when asked for.",
    ),
    cases=(
        *(_case(f"affine{bits}/32", (2,), quantized(3, 96, bits=bits)) for bits in BITS),
        _case("int8/32", (2,), quantized(3, 64, bits=8, scheme="int8")),
        _case("affine4/8", (2,), quantized(5, 16, group_size=8)),
        _case("affine4/32", (), quantized(3, 64)),
        _case("affine4/32", (2, 3), quantized(4, 64), bias=True),
        _case("float32 scales", (2,), wide(3, 64)),
        _case("permuted", (2,), permuted(3, 64)),
        _case("affine4/32", (0,), quantized(3, 64)),
        _case("affine4/32", (2,), quantized(0, 64)),
        _case("affine4/32", (7,), quantized(33, 1024), bias=True, tier="full"),
        _case("int8/32", (3,), quantized(65, 1024, bits=8, scheme="int8"), tier="full"),
        _case("affine6/64", (17,), quantized(40, 512, bits=6, group_size=64), tier="full"),
        _case("decode:affine4/32", (1,), quantized(1536, 576), tier="bench"),
        _case("decode:affine4/32", (1,), quantized(576, 1536), tier="bench"),
        _case("decode:affine4/32", (1,), quantized(49152, 576), tier="bench"),
        _case("decode:int8/32", (1,), quantized(49152, 576, bits=8, scheme="int8"), tier="bench"),
        _case("prefill:affine4/32", (128,), quantized(1536, 576), tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.quantized:quantized_linear",
    bad_inputs=(
        BadInput(
            "K differs",
            {"x": normal(2, 32), "weight": quantized(4, 64)},
            {},
            InvalidInputError,
            "weight: expected shape",
        ),
        BadInput(
            "an array", {"x": normal(2, 64), "weight": normal(4, 64)}, {}, InvalidInputError, "expected a QuantWeight"
        ),
        BadInput(
            "bias too long",
            {"x": normal(2, 64), "weight": quantized(4, 64), "bias": normal(5)},
            {},
            InvalidInputError,
            ": bias:",
        ),
    ),
)
