"""rope_rotate: pairs of dims rotated by given angles."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, invalid
from tinyllm.spec.attribute_checks import boolean
from tinyllm.spec.cases import BadInput, Case, Draw, normal
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.types import Call

TRADITIONAL = Attribute(
    "traditional", False, boolean, "pairs are (2i, 2i+1), as the paper has it; otherwise (i, i+R), as NeoX has it"
)


def rotate(xp: Any, x: Any, cos: Any, sin: Any, traditional: bool) -> Any:
    """x `[*B, D]` with each pair (a, b) of its first 2R dims replaced by `(a cos - b sin, b cos + a sin)`.

    cos, sin: `[*C, R]`, broadcast against the leading axes of x. traditional: pairs are (2i, 2i + 1), not (i, i + R).
    """
    pairs = cos.shape[-1]
    paired, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if traditional:
        by_pair = xp.reshape(paired, (*paired.shape[:-1], pairs, 2))
        a, b = by_pair[..., 0], by_pair[..., 1]
    else:
        a, b = paired[..., :pairs], paired[..., pairs:]
    parts = (a * cos - b * sin, b * cos + a * sin)
    rotated = xp.reshape(xp.stack(parts, axis=-1), paired.shape) if traditional else xp.concat(parts, axis=-1)
    return xp.concat((rotated, rest), axis=-1) if rest.shape[-1] else rotated


def pair_size(x: np.ndarray, size: np.ndarray, traditional: bool, rest: float) -> np.ndarray:
    """What errors of a rotation are relative to, `[*B, D]`: `(|a| + |b|) * size` for both dims of a pair (a, b),
    `|x| * rest` for the dims that are not rotated. numpy only.

    size: of a pair's cos and sin, or of their errors, broadcastable to `[*B, R]`.
    """
    pairs = size.shape[-1]
    x = np.abs(x)
    paired = x[..., : 2 * pairs]
    a, b = (paired[..., ::2], paired[..., 1::2]) if traditional else (paired[..., :pairs], paired[..., pairs:])
    of_pair = (a + b) * size
    of_dim = np.repeat(of_pair, 2, axis=-1) if traditional else np.concatenate((of_pair, of_pair), axis=-1)
    return np.concatenate((of_dim, x[..., 2 * pairs :] * rest), axis=-1)


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
    """`a cos - b sin` is a sum of two products, whose rounding errors are relative to `|a cos| + |b sin|`."""
    size = np.maximum(np.abs(inputs["cos"]), np.abs(inputs["sin"]))
    return pair_size(inputs["x"], size, attributes.get("traditional", False), 1.0)


def _waves(wave: Any, *shape: int) -> Draw:
    """cos or sin, as `wave` says, of the angles at positions 0, 1, 2... along the first axis."""

    def make(rng: Any) -> Any:
        positions = np.arange(shape[0] if len(shape) > 1 else 1).reshape(-1, *(1,) * (len(shape) - 1))
        frequencies = 10000.0 ** -(np.arange(shape[-1]) / max(shape[-1], 1))
        return wave(np.broadcast_to(positions * frequencies + 0.5, shape))

    return Draw(shape, make)


def _inputs(x: tuple[int, ...], angles: tuple[int, ...]) -> dict[str, Draw]:
    return {"x": normal(*x), "cos": _waves(np.cos, *angles), "sin": _waves(np.sin, *angles)}


def _bad(name: str, match: str, inputs: dict[str, Draw], decision: int | None = None, **attributes: Any) -> BadInput:
    return BadInput(name, inputs, attributes, InvalidInputError, f"rope_rotate: {match}", decision)


rope_rotate = OpSpec(
    name="rope_rotate",
    summary="Rotates the first 2R dims of x, pair by pair, by angles given as cos and sin.",
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
    flops=lambda call: 6 * prod(call.shape("x")[:-1]) * call.shape("cos")[-1],
    scale=_scale,
    notes=("Dims past 2R are given back as they are. 16-bit x is rotated in float32 and rounded once.",),
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
        _bad("too many pairs", "cos: expected 1 to 3 pairs", _inputs((3, 6), (3, 4)), 18),
        _bad("no pairs", "cos: expected 1 to 3 pairs", _inputs((3, 6), (3, 0)), 18),
        _bad("cos enlarges", "cos: expected leading axes", _inputs((1, 8), (3, 4))),
        _bad("cos of more axes", "cos: expected leading axes", _inputs((3, 8), (1, 3, 4))),
        _bad("sin differs", "sin: expected the shape of cos", _inputs((3, 8), (3, 4)) | {"sin": normal(1, 4)}),
        _bad("R differs", "sin: expected shape", _inputs((3, 8), (3, 4)) | {"sin": normal(3, 3)}),
        _bad("traditional 1", "traditional: expected True or False", _inputs((3, 8), (3, 4)), traditional=1),
    ),
)
