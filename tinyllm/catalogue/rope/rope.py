"""rope: rotary position embeddings, angles and rotation in one."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.rope.rope_angles import FREQUENCIES, LLAMA3, LONGROPE, PROPORTIONAL, YARN
from tinyllm.catalogue.rope.rope_rotate import TRADITIONAL, pair_size, rotate
from tinyllm.catalogue.rope.settings import (
    BASE,
    FREQUENCY_INPUT,
    FREQUENCY_SETTINGS,
    NAMES_ELSEWHERE,
    POSITION_SCALE,
    angle_size,
    cos_sin,
    refuse_by_length,
    rotated_dims,
)
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.spec.cases import BadInput, Case, constant, integers, normal
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor
from tinyllm.spec.types import ArrayType, Call


def _reference(
    xp: Any,
    x: Any,
    *,
    offset: Any = None,
    positions: Any = None,
    inv_freq: Any = None,
    dims: int | None = None,
    base: float = BASE,
    scaling: RopeScaling | None = None,
    traditional: bool = False,
    position_scale: float = 1.0,
) -> Any:
    if positions is None:
        positions = xp.arange(x.shape[-2])
        if offset is not None:
            positions = xp.expand_dims(xp.astype(offset, positions.dtype), axis=-1) + positions  # [L] or [B, L]
    rotated = _rotated(x, inv_freq, dims)
    cos, sin = cos_sin(xp, positions, inv_freq, rotated, base, scaling, position_scale, x.dtype)
    shape = _angles_shape(x, cos)
    return rotate(xp, x, xp.reshape(cos, shape), xp.reshape(sin, shape), traditional)


def _rotated(x: Any, inv_freq: Any, dims: int | None) -> int:
    """How many dims of x are rotated."""
    rotated: int = 2 * inv_freq.shape[0] if inv_freq is not None else x.shape[-1] if dims is None else dims
    return rotated


def _angles_shape(x: Any, cos: Any) -> tuple[int, ...]:
    """The shape in which cos and sin broadcast against x: `[L, R]`, or `[B, 1, ..., L, R]` for `[B, L, R]`, where each
    entry of the first axis has positions of its own."""
    return (cos.shape[0], *(1,) * (x.ndim - 3), *cos.shape[1:]) if cos.ndim == 3 else cos.shape


def _check(call: Call) -> None:
    x, offset, positions = call.shape("x"), call.inputs["offset"], call.inputs["positions"]
    refuse_by_length("rope", call.attributes["scaling"])
    rotated_dims(call, x[-1])
    if offset is not None and positions is not None:
        raise invalid("rope", "positions", "either positions or offset", "both")
    batch = x[:1] if len(x) > 2 else None
    if isinstance(offset, ArrayType) and offset.shape not in ((), batch):
        raise invalid(
            "rope", "offset", "a number" + (f" or shape {list(batch)}" if batch else ""), f"shape {list(offset.shape)}"
        )
    length = x[-2:-1]
    if isinstance(positions, ArrayType) and positions.shape not in (length, batch and batch + length):
        expected = f"shape {list(length)}" + (f" or {list(batch + length)}" if batch else "")
        raise invalid("rope", "positions", expected, f"shape {list(positions.shape)}")


def _scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Of the rotation itself: as in `rope_rotate`, where cos and sin are at most the attention factor."""
    x = inputs["x"]
    pairs = _rotated(x, inputs.get("inv_freq"), attributes.get("dims")) // 2
    size = np.full(pairs, abs(attention_factor(attributes.get("scaling"))))
    return pair_size(x, size, attributes.get("traditional", False), 1.0)


def _inner_scale(inputs: Any, attributes: Any, outputs: Any) -> Any:
    """Of the angle: rounded to float32 it is off by `eps32 |angle|`, and `a cos - b sin` by that times |a| + |b|, since
    cos and sin change no faster than the angle."""
    x, positions, offset = inputs["x"], inputs.get("positions"), inputs.get("offset")
    if positions is None:
        positions = np.arange(x.shape[-2]) + (0 if offset is None else np.asarray(offset, np.int64)[..., None])
    inv_freq = inputs.get("inv_freq")
    angles = angle_size(positions, inv_freq, _rotated(x, inv_freq, attributes.get("dims")), attributes)
    size = angles.reshape(_angles_shape(x, angles)) * abs(attention_factor(attributes.get("scaling")))
    return pair_size(x, size, attributes.get("traditional", False), 0.0)


_PLAIN = {"x": normal(3, 8)}
_BATCH = {"x": normal(2, 3, 8)}


def _bad(
    name: str, match: str, decision: int | None, inputs: Mapping[str, Any] | None = None, **attributes: Any
) -> BadInput:
    """A call with x `[3, 8]` that is right but for the inputs and attributes given."""
    return BadInput(name, {**_PLAIN, **(inputs or {})}, attributes, InvalidInputError, match, decision)


rope = OpSpec(
    name="rope",
    summary="Rotary position embeddings over the last axis; the sequence is the axis before it.",
    formula="rope_rotate(x, *rope_angles(positions)), positions = offset + (0, 1, ..., L-1)",
    source="Su et al. 2021, arXiv:2104.09864",
    inputs=(
        Input("x", "*B L D"),
        Input(
            "offset",
            "*offset",
            "int",
            optional=True,
            about="position of the first entry; a number, or [B] for the first axis",
        ),
        Input(
            "positions",
            "*positions",
            "int",
            optional=True,
            about="[L] or [B, L], instead of offset; negative ones allowed",
        ),
        FREQUENCY_INPUT,
    ),
    attributes=(*FREQUENCY_SETTINGS, TRADITIONAL, POSITION_SCALE),
    outputs=(Output("y", "*B L D"),),
    reference=_reference,
    check=_check,
    flops=lambda call: 3 * prod(call.shape("x")[:-1]) * rotated_dims(call, call.shape("x")[-1]),
    scale=_scale,
    inner_scale=_inner_scale,
    notes=(
        "The sequence is axis -2: from torchtune's [B, L, H, D] swap the axes L and H first.",
        "Angles and rotation are in float32 or better and rounded once: at position 131,071 a float32 angle is "
        "off by up to 0.006.",
        "YaRN's attention factor multiplies the rotated dims only.",
    ),
    refused=NAMES_ELSEWHERE,
    cases=(
        Case("L5,D8", {"x": normal(5, 8)}),
        Case("L5,D8,traditional", {"x": normal(5, 8)}, {"traditional": True}),
        Case("B2,H3,L4,D8", {"x": normal(2, 3, 4, 8)}, decision=14),
        Case("H3,L1,D4,offset7", {"x": normal(3, 1, 4), "offset": constant(7, "int64")}, decision=14),
        Case("L3,D4,offset-2", {"x": normal(3, 4), "offset": constant(-2, "int32")}, decision=14),
        Case("B2,H3,L4,D8,offset of B", {"x": normal(2, 3, 4, 8), "offset": constant([0, 9], "int32")}, decision=14),
        Case(
            "B2,L4,D8,offset of B,traditional",
            {"x": normal(2, 4, 8), "offset": integers(0, 9, 2)},
            {"traditional": True},
            decision=14,
        ),
        Case(
            "B2,H3,L4,D8,positions of L",
            {"x": normal(2, 3, 4, 8), "positions": constant([-1, 0, 5, 2], "int32")},
            decision=14,
        ),
        Case(
            "B2,H3,L4,D8,positions of B and L",
            {"x": normal(2, 3, 4, 8), "positions": integers(0, 99, 2, 4)},
            decision=14,
        ),
        Case("H2,L3,D10,dims4", {"x": normal(2, 3, 10)}, {"dims": 4}, decision=16),
        Case("H2,L3,D7,dims4,traditional", {"x": normal(2, 3, 7)}, {"dims": 4, "traditional": True}, decision=16),
        Case("H2,L3,D6,inv_freq", {"x": normal(2, 3, 6), "inv_freq": FREQUENCIES}, decision=16),
        Case("H2,L3,D8,inv_freq,dims6", {"x": normal(2, 3, 8), "inv_freq": FREQUENCIES}, {"dims": 6}, decision=16),
        Case("H2,L3,D8,base500000,scale0.5", {"x": normal(2, 3, 8)}, {"base": 5e5, "position_scale": 0.5}, decision=16),
        Case("H2,L3,D8,linear", {"x": normal(2, 3, 8)}, {"scaling": RopeScaling("linear", 4.0)}),
        Case(
            "H2,L3,D16,llama3",
            {"x": normal(2, 3, 16), "offset": constant(99, "int64")},
            {"base": 5e5, "scaling": LLAMA3},
        ),
        Case(
            "H2,L3,D16,yarn,dims12",
            {"x": normal(2, 3, 16), "offset": constant(40, "int64")},
            {"scaling": YARN, "dims": 12},
            decision=16,
        ),
        Case("H2,L3,D16,proportional", {"x": normal(2, 3, 16)}, {"scaling": PROPORTIONAL}),
        Case("L3,D64,large", {"x": normal(3, 64), "positions": constant([4095, 32767, 131071], "int32")}, decision=15),
        Case("H2,L0,D4", {"x": normal(2, 0, 4)}, decision=20),
        Case("B0,L3,D4", {"x": normal(0, 3, 4), "positions": integers(0, 9, 0, 3)}, decision=20),
        Case("B2,H3,L65,D80", {"x": normal(2, 3, 65, 80), "offset": constant([17, 1000], "int32")}, tier="full"),
        Case("decode:H9,L1,D64", {"x": normal(9, 1, 64), "offset": constant(511, "int64")}, tier="bench"),
        Case("prefill:H9,L128,D64", {"x": normal(9, 128, 64)}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.rope:rope",
    bad_inputs=(
        _bad("D odd", "dims: expected a positive even number", 18, {"x": normal(3, 5)}),
        _bad("D 0", "dims: expected a positive even number", 18, {"x": normal(3, 0)}),
        _bad("dims odd", "dims: expected a positive even number", 18, dims=5),
        _bad("dims too many", "dims: expected a positive even number of at most 8", 18, dims=10),
        _bad("dims a float", "dims: expected None or an integer", 18, dims=4.0),
        _bad("integer x", "x: expected a float dtype", 18, {"x": integers(0, 9, 3, 8)}),
        _bad("x 1-d", "x: expected shape", None, {"x": normal(8)}),
        _bad(
            "positions and offset",
            "either positions or offset",
            14,
            {"positions": integers(0, 9, 3), "offset": constant(1)},
        ),
        _bad("float positions", "positions: expected an integer dtype", 14, {"positions": constant([0.0, 1.0, 2.0])}),
        _bad("offset a float", "offset: expected", 14, {"offset": 1.5}),
        _bad(
            "positions too short",
            "positions: expected shape [3] or [2, 3]",
            14,
            _BATCH | {"positions": integers(0, 9, 2)},
        ),
        _bad(
            "positions of another batch", "positions: expected shape", 14, _BATCH | {"positions": integers(0, 9, 1, 3)}
        ),
        _bad(
            "offset of another batch",
            "offset: expected a number or shape [2]",
            14,
            _BATCH | {"offset": integers(0, 9, 3)},
        ),
        _bad("offset [L] without batch", "offset: expected a number, got", 14, {"offset": integers(0, 9, 3)}),
        _bad("inv_freq and base", "either inv_freq or base", 16, {"inv_freq": FREQUENCIES}, base=5e5),
        _bad("inv_freq and scaling", "either inv_freq or scaling", 16, {"inv_freq": FREQUENCIES}, scaling=LLAMA3),
        _bad("inv_freq too long", "even number of at most 4", 16, {"x": normal(3, 4), "inv_freq": FREQUENCIES}),
        _bad("inv_freq unlike dims", "inv_freq: expected 4 frequencies", 16, {"inv_freq": FREQUENCIES}, dims=8),
        _bad("scaling a dict", "scaling: expected None or a RopeScaling", None, scaling={"rope_type": "yarn"}),
        BadInput("seq_len", _PLAIN, {"seq_len": 3}, UnsupportedError, "lengths=", 17),
        BadInput("longrope", _PLAIN, {"scaling": LONGROPE}, UnsupportedError, "use rope_angles with lengths="),
        BadInput("freqs", _PLAIN, {"freqs": 1.0}, UnsupportedError, "use inv_freq=", 16),
        BadInput("scale", _PLAIN, {"scale": 0.5}, UnsupportedError, "use position_scale"),
    ),
)
