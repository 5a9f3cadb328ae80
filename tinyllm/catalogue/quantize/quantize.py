"""quantize: a float matrix to small integers, in groups that share a scale."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.spec.attribute_checks import instance
from tinyllm.spec.cases import BadInput, Case, Draw, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.scheme import QuantWeight, Scheme
from tinyllm.spec.types import Call

DEFAULT = Affine()


def _reference(xp: Any, w: Any, *, scheme: Scheme = DEFAULT) -> QuantWeight:
    return scheme.quantize(xp, w)


def _check(call: Call) -> None:
    columns, scheme = call.shape("w")[-1], call.attributes["scheme"]
    if not scheme.can_quantize:
        raise UnsupportedError(f"quantize: scheme: {scheme} has no way to make weights, it only reads them")
    if not isinstance(columns, int):
        return
    if columns % scheme.block:
        raise invalid("quantize", "w", f"a row length that groups of {scheme.block} divide", columns)
    expected = scheme.check_parameters(call.shape("w"))
    if expected is not None:
        raise invalid("quantize", "w", f"a row length that is {expected}", columns)


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Of the dequantized matrix: the largest of a row."""
    return np.max(np.abs(inputs["w"]), axis=-1, keepdims=True, initial=0.0)


def _near_levels(scheme: Affine | Int8, shape: tuple[int, ...], exponents: tuple[int, int]) -> Draw:
    """Weights a little beside the levels of a scale that every dtype holds, so that all roundings agree on the
    integers.

    exponents: the least of the scales, base 2, and one more than the largest.
    """
    low, high = (-(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1) if isinstance(scheme, Affine) else (-127, 127)

    def make(rng: Any) -> Any:
        q = rng.integers(low, high + 1, shape) + rng.uniform(-0.2, 0.2, shape)
        groups = np.clip(q, low, high).reshape(*shape[:-1], -1, scheme.block)
        groups[..., 0], groups[..., -1] = low, high
        scales = 2.0 ** rng.integers(*exponents, groups.shape[:-1])
        return (groups * scales[..., None]).reshape(shape)

    return Draw(shape, make)


def near_levels_case(
    scheme: Scheme, *shape: int, tier: str = "smoke", name: str = "", exponents: tuple[int, int] = (-6, -3)
) -> Case:
    """A case whose numbers lie near the levels of a scheme of the core; for another scheme they are any."""
    draw = _near_levels(scheme, shape, exponents) if isinstance(scheme, (Affine, Int8)) else normal(*shape)
    size = f",exponents{exponents[0]}" if exponents != (-6, -3) else ""
    return Case(f"{name}{'x'.join(map(str, shape))},{scheme}{size}", {"w": draw}, {"scheme": scheme}, tier=tier)


quantize = OpSpec(
    name="quantize",
    summary="A float matrix to small integers, held as a scheme says.",
    formula="by scheme; affine: bias = min(w), scale = (max(w) - min(w)) / (2^bits - 1), q = round((w - bias) / "
    "scale); int8: scale = max|w| / 127, q = round(w / scale); minimum and maximum over a group",
    source="Jacob et al. 2018, arXiv:1712.05877; groups as in MLX, mlx.core.quantize",
    inputs=(Input("w", "*B N K"),),
    attributes=(Attribute("scheme", DEFAULT, instance(Scheme), "how the numbers are held: one that can quantize"),),
    outputs=(Output("weight", "*B N K", "quant"),),
    reference=_reference,
    check=_check,
    flops=lambda call: 6 * prod(call.shape("w")),
    scale=_scale,
    notes=(
        "Scales and biases are float32 for float32 and float64 input, otherwise float16; the packing is the scheme's.",
        "A group of equal numbers has scale 0 and gives them back exactly.",
        "MLX's own mx.quantize picks other scales (negative ones too, so that 0 is hit exactly): the same "
        "format, not the same numbers.",
        "A number halfway between two integers may go to either: two kernels are compared by what they give back "
        "dequantized.",
    ),
    cases=(
        near_levels_case(Affine(4, 32), 33, 1536, tier="full"),
        near_levels_case(Affine(5, 128), 16, 1024, tier="full"),
        near_levels_case(Affine(4, 32), 1536, 576, tier="bench", name="prefill:"),
    ),
    scheme_cases="tinyllm.catalogue.cases.schemes:quantize",
    bad_inputs=(
        BadInput(
            "groups do not divide",
            {"w": normal(2, 48)},
            {"scheme": Affine(4, 32)},
            InvalidInputError,
            "quantize: w: expected a row length",
        ),
        BadInput(
            "words not full", {"w": normal(2, 20)}, {"scheme": Affine(4, 4)}, InvalidInputError, "fill whole words"
        ),
        BadInput(
            "a name", {"w": normal(2, 64)}, {"scheme": "nf4"}, InvalidInputError, "quantize: scheme: expected a Scheme"
        ),
        BadInput("a vector", {"w": normal(64)}, {}, InvalidInputError, "quantize: w"),
    ),
)
