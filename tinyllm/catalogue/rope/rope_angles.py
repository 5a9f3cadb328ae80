"""rope_angles: the cosines and sines of rotary position embeddings, made once and shared by all layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyllm.catalogue.rope.settings import (
    BASE,
    FREQUENCY_INPUT,
    FREQUENCY_SETTINGS,
    NAMES_ELSEWHERE,
    POSITION_SCALE,
    angle_size,
    cos_sin,
    rotated_dims,
)
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.spec.attribute_checks import integer, number, optional
from tinyllm.spec.cases import BadInput, Case, constant, integers
from tinyllm.spec.op_spec import Attribute, Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, frequencies_by_length
from tinyllm.spec.types import Call


def _check(call: Call) -> dict[str, Any]:
    scaling, lengths = call.attributes["scaling"], call.inputs["lengths"]
    by_length = scaling is not None and scaling.by_length
    if by_length and lengths is None:
        raise invalid("rope_angles", "lengths", f"the length of each sequence for scaling {scaling.kind!r}", None)
    if lengths is not None and not by_length:
        kind = None if scaling is None else scaling.kind
        raise invalid("rope_angles", "lengths", f"none for scaling {kind!r}, the same at all lengths", "lengths")
    if lengths is not None and lengths.shape != call.shape("positions"):
        expected = f"shape {list(call.shape('positions'))}, that of positions"
        raise invalid("rope_angles", "lengths", expected, f"shape {list(lengths.shape)}")
    log_scale, log_period = call.attributes["log_scale"], call.attributes["log_period"]
    if (log_scale == 0) != (log_period is None):
        expected = "a period where log_scale is not 0, and none where it is"
        raise invalid("rope_angles", "log_period", expected, log_period)
    return {"R": rotated_dims(call, None) // 2}


def _reference(
    xp: Any,
    positions: Any,
    *,
    inv_freq: Any = None,
    lengths: Any = None,
    dims: int | None = None,
    base: float = BASE,
    scaling: RopeScaling | None = None,
    position_scale: float = 1.0,
    log_scale: float = 0.0,
    log_period: int | None = None,
) -> tuple[Any, Any]:
    finest = getattr(xp, "float64", xp.float32)  # a device without float64 has no such name
    cos, sin = cos_sin(
        xp,
        positions,
        inv_freq,
        dims or 0,
        base,
        scaling,
        position_scale,
        finest if inv_freq is None else inv_freq.dtype,
        lengths,
    )
    if log_period is None:
        return cos, sin
    periods = xp.floor(xp.astype(positions, cos.dtype) / log_period)
    factor = 1 + log_scale * xp.log(1 + xp.where(periods > 0, periods, 0 * periods))
    return cos * factor[..., None], sin * factor[..., None]


def _factor(inputs: Any, attributes: Any, outputs: Any) -> np.ndarray:
    """The size of what cosines and sines are multiplied by, broadcast to the outputs."""
    scaling, lengths = attributes.get("scaling"), inputs.get("lengths")
    if lengths is None:
        factor: Any = attention_factor(scaling)
    else:
        dims = 2 * outputs[0].shape[-1]
        _, factor = frequencies_by_length(np, np.asarray(lengths, np.float64), np.asarray, dims, BASE, scaling)
    if (period := attributes.get("log_period")) is not None:
        periods = np.maximum(np.floor(np.asarray(inputs["positions"], np.float64) / period), 0)[..., None]
        factor = np.abs(factor) * (1 + np.abs(attributes["log_scale"]) * np.log(1 + periods))
    return np.broadcast_to(np.abs(factor), np.shape(outputs[0]))


def _scale(inputs: Any, attributes: Any, outputs: Any) -> tuple[Any, Any]:
    """The largest that cos and sin may be: near their zeros an error relative to them is not to be had."""
    size = _factor(inputs, attributes, outputs)
    return size, size


def _inner_scale(inputs: Any, attributes: Any, outputs: Any) -> tuple[Any, Any]:
    """A float32 angle is off by `eps32 |angle|`, and cos and sin change no faster than the angle."""
    dims = 2 * outputs[0].shape[-1]
    angles = angle_size(inputs["positions"], inputs.get("inv_freq"), dims, attributes, inputs.get("lengths"))
    size = angles * _factor(inputs, attributes, outputs)
    return size, size


LLAMA3 = RopeScaling("llama3", 8.0, 8192)
YARN = RopeScaling("yarn", 4.0, 32)
PROPORTIONAL = RopeScaling("proportional", 2.0, partial_rotary_factor=0.5)
DYNAMIC = RopeScaling("dynamic", 2.0, 32)
LONGROPE = RopeScaling("longrope", 4.0, 32, short_factor=(1.0, 1.5, 2.0, 3.0), long_factor=(1.25, 3.0, 7.0, 30.0))
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
    formula="g cos(p s f_i), g sin(p s f_i) with f_i = base^(-2i/dims), stretched by the scaling, and "
    "g = 1 + log_scale ln(1 + max(floor(p / log_period), 0))",
    source="Su et al. 2021, arXiv:2104.09864; YaRN: Peng et al. 2023, arXiv:2309.00071; linear: Chen et al. "
    "2023, arXiv:2306.15595; longrope: Ding et al. 2024, arXiv:2402.13753; log_scale: transformers' Ministral3, after "
    "Llama 4",
    inputs=(
        Input("positions", "*P", "int", about="any integers, negative ones too"),
        FREQUENCY_INPUT,
        Input(
            "lengths",
            "*lengths",
            "int",
            optional=True,
            about="tokens of each position's sequence: for scalings that go by it, and for no others",
        ),
    ),
    attributes=(
        *FREQUENCY_SETTINGS,
        POSITION_SCALE,
        Attribute("log_scale", 0.0, number(), "cos and sin grow with the logarithm of the position by this"),
        Attribute("log_period", None, optional(integer(1)), "the positions after which they do, before position_scale"),
    ),
    outputs=(Output("cos", "*P R", "float32"), Output("sin", "*P R", "float32")),
    reference=_reference,
    check=_check,
    flops=lambda call: 3 * math.prod(call.shape("positions")) * call.dims["R"],
    scale=_scale,
    inner_scale=_inner_scale,
    notes=(
        "The outputs are float32, whatever the model's dtype; at position 131,071 a float32 angle is off by up "
        "to 0.006.",
        "A frequency of 0 leaves its pair unrotated.",
        "YaRN's and longrope's attention factor is multiplied into cos and sin.",
        "Queries turned by angles with log_scale have scores that grow with their position; keys take those without.",
        "Scalings 'dynamic' and 'longrope' go by the length of each position's own sequence, where transformers takes "
        "the largest position of the batch plus one. Positions of several sequences may stand in one call.",
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
        Case("proportional", {"positions": integers(0, 50, 4)}, {"dims": 8, "scaling": PROPORTIONAL}),
        Case(
            "dynamic,lengths31to99",
            {"positions": integers(0, 31, 4), "lengths": constant([31, 32, 33, 99], "int32")},
            {"dims": 8, "scaling": DYNAMIC},
        ),
        Case(
            "longrope,lengths31to99",
            {"positions": integers(0, 31, 4), "lengths": constant([31, 32, 33, 99], "int32")},
            {"dims": 8, "scaling": LONGROPE},
        ),
        Case(
            "log_scale",
            {"positions": constant([-9, 0, 7, 8, 15, 16, 1000], "int32")},
            {"dims": 8, "scaling": YARN, "log_scale": 0.25, "log_period": 8},
        ),
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
        _bad("log_scale alone", "log_period: expected a period where log_scale is not 0", None, dims=4, log_scale=0.1),
        _bad("log_period alone", "log_period: expected a period where log_scale", None, dims=4, log_period=8),
        _bad("log_period 0", "log_period: expected", None, dims=4, log_scale=0.1, log_period=0),
        _bad("no lengths", "lengths: expected the length of each sequence", None, dims=8, scaling=DYNAMIC),
        _bad("lengths for none", "lengths: expected none", None, {"lengths": integers(1, 9, 3)}, dims=8),
        _bad("lengths for yarn", "lengths: expected none", None, {"lengths": integers(1, 9, 3)}, dims=8, scaling=YARN),
        _bad(
            "lengths too few",
            "lengths: expected shape",
            None,
            {"lengths": integers(1, 9, 2)},
            dims=8,
            scaling=LONGROPE,
        ),
        _bad(
            "factors too few",
            "scaling.short_factor: expected 8 numbers",
            None,
            {"lengths": integers(1, 9, 3)},
            dims=16,
            scaling=LONGROPE,
        ),
        _bad("scaling a word", "scaling: expected None or a RopeScaling", None, dims=4, scaling="yarn"),
        BadInput(
            "seq_len", {"positions": integers(0, 9, 3)}, {"dims": 4, "seq_len": 9}, UnsupportedError, "lengths=", 17
        ),
    ),
)
