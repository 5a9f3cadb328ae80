"""rope_angles: the cosines and sines of rotary position embeddings, made once and shared by all layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.spec.attribute_checks import instance, integer, number, optional
from tinyllm.spec.cases import BadInput, Case, constant, integers
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, inverse_frequencies
from tinyllm.spec.types import Call

BASE = 10000.0
MOST_DIMS = 1 << 16
"""The most dims that `rope_angles` takes, which has no array to rotate: far more than any head has."""

FREQUENCY_INPUT = Input(
    "inv_freq", "R", "float", optional=True, about="radians per position of each pair, instead of base and scaling"
)
FREQUENCY_SETTINGS = (
    Attribute(
        "dims",
        None,
        optional(integer()),
        "how many dims are rotated, an even number; None: all, or 2R where inv_freq is given",
    ),
    Attribute("base", BASE, number(above=1), "pair i turns by base**(-2i/dims) radians per position (rope_theta)"),
    Attribute("scaling", None, optional(instance(RopeScaling)), "how the frequencies are stretched"),
)
POSITION_SCALE = Attribute("position_scale", 1.0, number(), "multiplies positions")

NAMES_ELSEWHERE = {
    "theta": "use base=",
    "rope_theta": "use base=",
    "freqs": "use inv_freq= (MLX's freqs are its inverse)",
    "position_ids": "use positions=",
    "scale": "use position_scale=",
    "interleaved": "use traditional=True",
    "seq_len": "only dynamic and longrope scaling need it, and they are not supported",
}


def rotated_dims(call: Call, width: Any) -> Any:
    """How many dims are rotated: those of `inv_freq`, else `dims`, else all of `width`.

    width: the last axis of the array to be rotated, None where there is none. A size known by name only is given back.

    Raises:
        InvalidInputError: `inv_freq` beside `base`, `scaling` or `dims` of another length; no dims at all; dims that
            are odd, not above 0 or more than there are.
    """
    op, attributes = call.op, call.attributes
    dims, frequencies = attributes["dims"], call.inputs["inv_freq"]
    if frequencies is not None:
        for name, default in (("base", BASE), ("scaling", None)):
            if attributes[name] != default:
                raise invalid(op, "inv_freq", f"either inv_freq or {name}", "both")
        pairs = frequencies.shape[0]
        if dims is not None and dims != 2 * pairs:
            raise invalid(op, "inv_freq", f"{dims // 2} frequencies for dims {dims}", pairs)
        dims = 2 * pairs
    elif dims is None:
        dims = width
    if dims is None:
        raise invalid(op, "dims", "dims or inv_freq", "neither")
    if isinstance(dims, str):  # a named size, known when it runs
        return dims
    most = width if isinstance(width, int) else MOST_DIMS
    if dims <= 0 or dims % 2 or dims > most:
        raise invalid(op, "dims", f"a positive even number of at most {most}", dims)
    return dims


def cos_sin(
    xp: Any,
    positions: Any,
    inv_freq: Any,
    dims: int,
    base: float,
    scaling: RopeScaling | None,
    position_scale: float,
    dtype: Any,
) -> tuple[Any, Any]:
    """cos and sin `[*P, dims / 2]` of `position * position_scale * inv_freq` radians, times the attention factor."""
    if inv_freq is None:
        inv_freq = xp.asarray(inverse_frequencies(dims, base, scaling).tolist(), dtype=dtype)
    angles = xp.expand_dims(xp.astype(positions, dtype) * position_scale, axis=-1) * xp.astype(inv_freq, dtype)
    factor = attention_factor(scaling)
    return xp.cos(angles) * factor, xp.sin(angles) * factor


def angle_size(positions: Any, inv_freq: Any, dims: int, attributes: Any) -> np.ndarray:
    """The sizes `[*P, dims / 2]` of the angles, which the rounding error of a float32 angle is relative to. numpy
    only."""
    scaling = attributes.get("scaling")
    if inv_freq is None:
        inv_freq = inverse_frequencies(dims, attributes.get("base", BASE), scaling)
    size: np.ndarray = np.abs(
        np.asarray(positions, np.float64)[..., None] * attributes.get("position_scale", 1.0) * inv_freq
    )
    return size


def _reference(
    xp: Any,
    positions: Any,
    *,
    inv_freq: Any = None,
    dims: int | None = None,
    base: float = BASE,
    scaling: RopeScaling | None = None,
    position_scale: float = 1.0,
) -> tuple[Any, Any]:
    finest = getattr(xp, "float64", xp.float32)  # a device without float64 has no such name
    return cos_sin(
        xp,
        positions,
        inv_freq,
        dims or 0,
        base,
        scaling,
        position_scale,
        finest if inv_freq is None else inv_freq.dtype,
    )


def _scale(inputs: Any, attributes: Any, outputs: Any) -> tuple[Any, Any]:
    """The largest that cos and sin may be: near their zeros an error relative to them is not to be had."""
    size = np.full(np.shape(outputs[0]), abs(attention_factor(attributes.get("scaling"))))
    return size, size


def _inner_scale(inputs: Any, attributes: Any, outputs: Any) -> tuple[Any, Any]:
    """A float32 angle is off by `eps32 |angle|`, and cos and sin change no faster than the angle."""
    angles = angle_size(inputs["positions"], inputs.get("inv_freq"), 2 * outputs[0].shape[-1], attributes)
    size = angles * abs(attention_factor(attributes.get("scaling")))
    return size, size


LLAMA3 = RopeScaling("llama3", 8.0, 8192)
YARN = RopeScaling("yarn", 4.0, 32)
FREQUENCIES = constant([1.0, 0.25, 0.0], "float64")


def _bad(
    name: str, match: str, decision: int | None, inputs: Mapping[str, Any] | None = None, **attributes: Any
) -> BadInput:
    """A call with 3 positions that is right but for the inputs and attributes given."""
    return BadInput(
        name, {"positions": integers(0, 9, 3), **(inputs or {})}, attributes, InvalidInputError, match, decision
    )


rope_angles = OpSpec(
    name="rope_angles",
    summary="Cosines and sines of the angles by which rotary position embeddings turn, for `rope_rotate`.",
    formula="cos(p s f_i), sin(p s f_i) with f_i = base^(-2i/dims), stretched by the scaling",
    source="Su et al. 2021, arXiv:2104.09864; YaRN: Peng et al. 2023, arXiv:2309.00071; linear: Chen et al. "
    "2023, arXiv:2306.15595",
    inputs=(
        Input("positions", "*P", "int", about="any integers, negative ones too"),
        FREQUENCY_INPUT,
    ),
    attributes=(*FREQUENCY_SETTINGS, POSITION_SCALE),
    outputs=(Output("cos", "*P R", "float32"), Output("sin", "*P R", "float32")),
    reference=_reference,
    check=lambda call: {"R": rotated_dims(call, None) // 2},
    flops=lambda call: 3 * math.prod(call.shape("positions")) * call.dims["R"],
    scale=_scale,
    inner_scale=_inner_scale,
    notes=(
        "The outputs are float32, whatever the model's dtype; at position 131,071 a float32 angle is off by up "
        "to 0.006.",
        "A frequency of 0 leaves its pair unrotated.",
        "YaRN's attention factor is multiplied into cos and sin.",
    ),
    refused=NAMES_ELSEWHERE,
    cases=(
        Case("5,dims8", {"positions": integers(0, 100, 5)}, {"dims": 8}),
        Case("2x3,dims4", {"positions": integers(0, 100, 2, 3)}, {"dims": 4}),
        Case("scalar,dims2", {"positions": constant(7, "int64")}, {"dims": 2}),
        Case("negative", {"positions": constant([-3, -1, 0, 2], "int32")}, {"dims": 6}, decision=14),
        Case("0,dims4", {"positions": integers(0, 9, 0)}, {"dims": 4}, decision=20),
        Case(
            "base500000,scale0.5",
            {"positions": integers(0, 50, 4)},
            {"dims": 8, "base": 5e5, "position_scale": 0.5},
            decision=16,
        ),
        Case("inv_freq", {"positions": integers(0, 50, 4), "inv_freq": FREQUENCIES}, decision=16),
        Case("inv_freq,dims6", {"positions": integers(0, 50, 4), "inv_freq": FREQUENCIES}, {"dims": 6}, decision=16),
        Case("linear", {"positions": integers(0, 50, 4)}, {"dims": 8, "scaling": RopeScaling("linear", 4.0)}),
        Case("llama3", {"positions": integers(0, 50, 4)}, {"dims": 16, "base": 5e5, "scaling": LLAMA3}),
        Case("yarn", {"positions": integers(0, 50, 4)}, {"dims": 16, "scaling": YARN}, decision=16),
        Case("large", {"positions": constant([4095, 32767, 131071], "int32")}, {"dims": 64}, decision=15),
        Case("1000,dims128", {"positions": integers(0, 8192, 1000)}, {"dims": 128}, tier="full"),
        Case("decode:1,dims64", {"positions": integers(0, 8192, 1)}, {"dims": 64}, tier="bench"),
        Case("prefill:128,dims64", {"positions": integers(0, 8192, 128)}, {"dims": 64}, tier="bench"),
    ),
    more_cases="tinyllm.catalogue.cases.rope:rope_angles",
    bad_inputs=(
        _bad("no dims", "dims: expected dims or inv_freq", None),
        _bad("dims odd", "dims: expected a positive even number", 18, dims=3),
        _bad("dims 0", "dims: expected a positive even number", 18, dims=0),
        _bad(
            "float positions", "positions: expected an integer dtype", 14, {"positions": constant([0.0, 1.0])}, dims=4
        ),
        _bad("inv_freq and base", "either inv_freq or base", 16, {"inv_freq": FREQUENCIES}, base=5e5),
        _bad("inv_freq too short", "inv_freq: expected 4 frequencies", 16, {"inv_freq": FREQUENCIES}, dims=8),
        _bad("base 1", "base: expected a finite number above 1", None, dims=4, base=1.0),
        _bad("position_scale inf", "position_scale: expected a finite number", None, dims=4, position_scale=math.inf),
        _bad("scaling a word", "scaling: expected None or a RopeScaling", None, dims=4, scaling="yarn"),
        BadInput(
            "seq_len", {"positions": integers(0, 9, 3)}, {"dims": 4, "seq_len": 9}, UnsupportedError, "dynamic", 17
        ),
    ),
)
