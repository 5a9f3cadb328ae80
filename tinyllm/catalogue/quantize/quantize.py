"""quantize: a float matrix to small integers, in groups that share a scale."""

from __future__ import annotations

from math import gcd, prod
from typing import Any

import numpy as np

from tinyllm.catalogue.quantize.packing import pack, per_column
from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import choice, integer
from tinyllm.spec.cases import BadInput, Case, Draw, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec, Output
from tinyllm.spec.quantized import BITS, SCHEMES, WORD, QuantWeight
from tinyllm.spec.types import Call


def _reference(xp: Any, w: Any, *, bits: int = 4, group_size: int = 64, scheme: str = "affine") -> QuantWeight:
    groups = xp.reshape(w, (*w.shape[:-1], w.shape[-1] // group_size, group_size))
    if scheme == "int8":
        scales = xp.max(xp.abs(groups), axis=-1) / 127
        q = xp.clip(xp.round(_divided(xp, w, scales, group_size)), -127, 127)
        return QuantWeight("int8", {"q": xp.astype(q, xp.int8), "scales": scales}, 8, group_size, tuple(w.shape))
    biases, most = xp.min(groups, axis=-1), 2**bits - 1
    scales = (xp.max(groups, axis=-1) - biases) / most
    q = xp.clip(xp.round(_divided(xp, w - per_column(xp, biases, group_size), scales, group_size)), 0, most)
    return QuantWeight(
        "affine", {"q": pack(xp, q, bits), "scales": scales, "biases": biases}, bits, group_size, tuple(w.shape)
    )


def _divided(xp: Any, values: Any, scales: Any, group_size: int) -> Any:
    """`values / scale`, 0 in groups whose scale is 0: all their numbers are the same."""
    safe = xp.where(scales > 0, scales, xp.ones((), dtype=scales.dtype))
    return values / per_column(xp, safe, group_size)


def _check(call: Call) -> None:
    shape, bits, group_size = call.shape("w"), call.attributes["bits"], call.attributes["group_size"]
    if call.attributes["scheme"] == "int8" and bits != 8:
        raise invalid("quantize", "bits", "8 for scheme int8", bits)
    if not isinstance(shape[-1], int):
        return
    if shape[-1] % group_size:
        raise invalid("quantize", "w", f"a row length that groups of {group_size} divide", shape[-1])
    if shape[-1] * bits % WORD:
        whole = f"a row length that is a multiple of {WORD // gcd(bits, WORD)}: {bits}-bit rows fill whole words"
        raise invalid("quantize", "w", whole, shape[-1])


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Of the dequantized matrix: the largest of a row."""
    return np.max(np.abs(inputs["w"]), axis=-1, keepdims=True, initial=0.0)


def near_levels(
    *shape: int, bits: int, group_size: int, symmetric: bool = False, exponents: tuple[int, int] = (-6, -3)
) -> Draw:
    """Weights a little beside the levels of a scale that every dtype holds, so that all roundings agree on the
    integers.

    exponents: the least of the scales, base 2, and one more than the largest.
    """

    def make(rng: Any) -> Any:
        low, high = (-127, 127) if symmetric else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        q = rng.integers(low, high + 1, shape) + rng.uniform(-0.2, 0.2, shape)
        groups = np.clip(q, low, high).reshape(*shape[:-1], -1, group_size)
        groups[..., 0], groups[..., -1] = low, high
        scales = 2.0 ** rng.integers(*exponents, groups.shape[:-1])
        return (groups * scales[..., None]).reshape(shape)

    return Draw(shape, make)


def _case(
    *shape: int, bits: int = 4, group_size: int = 32, scheme: str = "affine", tier: str = "smoke", name: str = ""
) -> Case:
    """int8 stands for 8 bits."""
    attributes = {"bits": bits, "group_size": group_size} | ({"scheme": scheme} if scheme != "affine" else {})
    draw = near_levels(*shape, bits=bits, group_size=group_size, symmetric=scheme == "int8")
    return Case(f"{name}{'x'.join(map(str, shape))},{scheme}{bits}/{group_size}", {"w": draw}, attributes, tier=tier)


quantize = OpSpec(
    name="quantize",
    summary="A float matrix to integers of 2 to 8 bits, in groups along a row that share a scale and a bias.",
    formula="affine: bias = min(w), scale = (max(w) - min(w)) / (2^bits - 1), q = round((w - bias) / scale); "
    "int8: scale = max|w| / 127, q = round(w / scale); minimum and maximum over a group",
    source="Jacob et al. 2018, arXiv:1712.05877; groups as in MLX, mlx.core.quantize",
    inputs=(Input("w", "*B N K"),),
    attributes=(
        Attribute("bits", 4, choice(*BITS), "bits of an integer"),
        Attribute("group_size", 64, integer(1), "columns that share a scale"),
        Attribute("scheme", "affine", choice(*SCHEMES), "scale and bias, or symmetric (needs bits=8)"),
    ),
    outputs=(Output("weight", "*B N K", "quant"),),
    reference=_reference,
    check=_check,
    flops=lambda call: 6 * prod(call.shape("w")),
    scale=_scale,
    notes=(
        "Scales and biases are float32 for float32 and float64 input, otherwise float16; the packing is that of "
        "`QuantWeight`.",
        "A group of equal numbers has scale 0 and gives them back exactly.",
        "MLX's own mx.quantize picks other scales (negative ones too, so that 0 is hit exactly): the same "
        "format, not the same numbers.",
        "A number halfway between two integers may go to either: two kernels are compared by what they give back "
        "dequantized.",
    ),
    cases=(
        *(_case(2, 96, bits=bits) for bits in BITS),
        _case(2, 64, bits=8, scheme="int8"),
        _case(2, 3, 64, bits=4),
        _case(3, 16, bits=4, group_size=8),
        Case("2x32,equal", {"w": Draw((2, 32), lambda rng: np.full((2, 32), -0.75))}, {"group_size": 32}),
        Case(
            "2x32,zeros",
            {"w": Draw((2, 32), lambda rng: np.zeros((2, 32)))},
            {"group_size": 32, "bits": 8, "scheme": "int8"},
        ),
        Case("0x64", {"w": normal(0, 64)}, decision=20),
        _case(33, 1536, bits=4, tier="full"),
        _case(16, 1024, bits=5, group_size=128, tier="full"),
        _case(1536, 576, tier="bench", name="prefill:"),
    ),
    more_cases="tinyllm.catalogue.cases.quantized:quantize",
    bad_inputs=(
        BadInput(
            "groups do not divide",
            {"w": normal(2, 48)},
            {"group_size": 32},
            InvalidInputError,
            "quantize: w: expected a row length",
        ),
        BadInput("words not full", {"w": normal(2, 20)}, {"group_size": 4}, InvalidInputError, "fill whole words"),
        BadInput("7 bits", {"w": normal(2, 64)}, {"bits": 7}, InvalidInputError, "quantize: bits"),
        BadInput(
            "int8 of 4 bits", {"w": normal(2, 64)}, {"scheme": "int8"}, InvalidInputError, "quantize: bits: expected 8"
        ),
        BadInput("unknown scheme", {"w": normal(2, 64)}, {"scheme": "nf4"}, InvalidInputError, "quantize: scheme"),
        BadInput("a vector", {"w": normal(64)}, {}, InvalidInputError, "quantize: w"),
    ),
)
