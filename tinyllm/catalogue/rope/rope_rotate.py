"""rope_rotate: turns pairs of dims by given angles."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import boolean
from tinyllm.spec.cases import BadInput, Case, Draw, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec, Output
from tinyllm.spec.types import Call

TRADITIONAL = Attribute(
    "traditional", False, boolean, "pairs are (2i, 2i+1), as the paper has it; otherwise (i, i+R), as NeoX has it"
)


def rotate(xp: Any, x: Any, cos: Any, sin: Any, traditional: bool) -> Any:
    """The first 2R dims turned by angles whose cos and sin `[*C, R]` broadcast against the leading axes of x."""
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if traditional:
        split = xp.reshape(turned, (*turned.shape[:-1], pairs, 2))
        a, b = split[..., 0], split[..., 1]
    else:
        a, b = turned[..., :pairs], turned[..., pairs:]
    parts = (a * cos - b * sin, b * cos + a * sin)
    turned = xp.reshape(xp.stack(parts, axis=-1), turned.shape) if traditional else xp.concat(parts, axis=-1)
    return xp.concat((turned, rest), axis=-1) if rest.shape[-1] else turned


def pair_size(x: np.ndarray, size: np.ndarray, traditional: bool, rest: float) -> np.ndarray:
    """(|a| + |b|) * size for both dims of each pair, |x| * rest for the dims that do not turn."""
    pairs = size.shape[-1]
    x = np.abs(x)
    turned = x[..., : 2 * pairs]
    a, b = (turned[..., ::2], turned[..., 1::2]) if traditional else (turned[..., :pairs], turned[..., pairs:])
    both = (a + b) * size
    spread = np.repeat(both, 2, axis=-1) if traditional else np.concatenate((both, both), axis=-1)
    return np.concatenate((spread, x[..., 2 * pairs :] * rest), axis=-1)


def _reference(xp: Any, x: Any, cos: Any, sin: Any, *, traditional: bool = False) -> Any:
    return rotate(xp, x, xp.astype(cos, x.dtype), xp.astype(sin, x.dtype), traditional)


def _check(call: Call) -> None:
    x, cos, sin = call.shape("x"), call.shape("cos"), call.shape("sin")
    if cos != sin:
        raise invalid("rope_rotate", "sin", f"the shape of cos {list(cos)}", list(sin))
    width, pairs = x[-1], cos[-1]
    if pairs == 0 or (isinstance(width, int) and isinstance(pairs, int) and 2 * pairs > width):
        raise invalid("rope_rotate", "cos", f"1 to {width // 2} pairs for x of {width} dims", pairs)
    lead, wide = cos[:-1], x[:-1]
    if len(lead) > len(wide) or any(c not in (1, b) for c, b in zip(lead[::-1], wide[::-1], strict=False)):
        raise invalid("rope_rotate", "cos", f"leading axes that broadcast to those of x {list(wide)}", list(lead))


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    size = np.maximum(np.abs(inputs["cos"]), np.abs(inputs["sin"]))
    return pair_size(inputs["x"], size, attributes.get("traditional", False), 1.0)


def _flops(call: Call) -> int:
    x, pairs = call.shape("x"), call.shape("cos")[-1]
    return int(6 * prod(x[:-1]) * pairs)


def _waves(wave: Any, *shape: int) -> Draw:
    """cos or sin of the angles at positions 0, 1, 2... of the first axis."""

    def make(rng: Any) -> Any:
        positions = np.arange(shape[0] if len(shape) > 1 else 1).reshape(-1, *(1,) * (len(shape) - 1))
        frequencies = 10000.0 ** -(np.arange(shape[-1]) / max(shape[-1], 1))
        return wave(np.broadcast_to(positions * frequencies + 0.5, shape))

    return Draw(shape, make)


def _inputs(x: tuple[int, ...], angles: tuple[int, ...]) -> dict[str, Draw]:
    return {"x": normal(*x), "cos": _waves(np.cos, *angles), "sin": _waves(np.sin, *angles)}


rope_rotate = OpSpec(
    name="rope_rotate",
    summary="Turns the first 2R dims of x, pair by pair, by angles given as cos and sin.",
    formula="(a, b) -> (a cos - b sin, b cos + a sin) for each pair (a, b)",
    source="Su et al. 2021, arXiv:2104.09864; the half-split layout: EleutherAI GPT-NeoX",
    inputs=(
        Input("x", "*B D"),
        Input("cos", "*C R", "float", about="float32, from `rope_angles`; leading axes broadcast against those of x"),
        Input("sin", "*C R", "float", about="of the shape of cos"),
    ),
    attributes=(TRADITIONAL,),
    outputs=(Output("y", "*B D"),),
    reference=_reference,
    check=_check,
    flops=_flops,
    scale=_scale,
    notes=("Dims past 2R pass as they are. 16-bit x is turned in float32 and rounded once.",),
    cases=(
        Case("8,R4", _inputs((8,), (4,))),
        Case("3x8,R4", _inputs((3, 8), (3, 4))),
        Case("3x8,R4,traditional", _inputs((3, 8), (3, 4)), {"traditional": True}),
        Case("3x2x8,R4,angles3x1", _inputs((3, 2, 8), (3, 1, 4))),
        Case("2x3x4,R2,angles3", _inputs((2, 3, 4), (3, 2))),
        Case("2x3x10,R2,angles1x3", _inputs((2, 3, 10), (1, 3, 2))),
        Case("2x7,R2,traditional", _inputs((2, 7), (2, 2)), {"traditional": True}),
        Case("0x4,R2", _inputs((0, 4), (0, 2)), decision=20),
        Case("3x0x4,R2", _inputs((3, 0, 4), (3, 1, 2)), {"traditional": True}, decision=20),
        Case("65x3x80,R40", _inputs((65, 3, 80), (65, 1, 40)), tier="full"),
        Case("decode:1x9x64", _inputs((1, 9, 64), (1, 1, 32)), tier="bench"),
        Case("prefill:128x9x64", _inputs((128, 9, 64), (128, 1, 32)), tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.rope:rope_rotate",
    bad_inputs=(
        BadInput(
            "too many pairs",
            _inputs((3, 6), (3, 4)),
            {},
            InvalidInputError,
            "rope_rotate: cos: expected 1 to 3 pairs",
            decision=18,
        ),
        BadInput(
            "no pairs",
            _inputs((3, 6), (3, 0)),
            {},
            InvalidInputError,
            "rope_rotate: cos: expected 1 to 3 pairs",
            decision=18,
        ),
        BadInput(
            "cos enlarges", _inputs((1, 8), (3, 4)), {}, InvalidInputError, "rope_rotate: cos: expected leading axes"
        ),
        BadInput(
            "cos of more axes",
            _inputs((3, 8), (1, 3, 4)),
            {},
            InvalidInputError,
            "rope_rotate: cos: expected leading axes",
        ),
        BadInput(
            "sin differs",
            {"x": normal(3, 8), "cos": normal(3, 4), "sin": normal(1, 4)},
            {},
            InvalidInputError,
            "rope_rotate: sin",
        ),
        BadInput(
            "R differs",
            {"x": normal(3, 8), "cos": normal(3, 4), "sin": normal(3, 3)},
            {},
            InvalidInputError,
            "rope_rotate: sin",
        ),
        BadInput(
            "traditional 1", _inputs((3, 8), (3, 4)), {"traditional": 1}, InvalidInputError, "rope_rotate: traditional"
        ),
    ),
)
