"""What `rope` and `rope_angles` share: the settings of frequencies, their checks, and the angles that come of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.errors import UnsupportedError, invalid
from tinyllm.spec.attribute_checks import instance, integer, number, optional
from tinyllm.spec.op_spec import Attribute, Input
from tinyllm.spec.rope import RopeScaling
from tinyllm.spec.rope_frequencies import attention_factor, frequencies_by_length, inverse_frequencies
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
    "seq_len": "use lengths= of rope_angles, which dynamic and longrope scaling need",
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
    _check_factors(call.op, attributes["scaling"], dims // 2)
    return dims


def refuse_by_length(op: str, scaling: RopeScaling | None) -> None:
    """Raises `UnsupportedError` for a scaling that goes by the length of the sequence, which an op is not told."""
    if scaling is not None and scaling.by_length:
        raise UnsupportedError(
            f"{op}: scaling {scaling.kind!r} goes by the length of the sequence; use rope_angles with lengths=, then "
            f"rope_rotate"
        )


def _check_factors(op: str, scaling: RopeScaling | None, pairs: int) -> None:
    if scaling is not None and scaling.kind == "longrope" and len(scaling.short_factor) != pairs:
        raise invalid(op, "scaling.short_factor", f"{pairs} numbers, one for each pair", len(scaling.short_factor))


def cos_sin(
    xp: Any,
    positions: Any,
    inv_freq: Any,
    dims: int,
    base: float,
    scaling: RopeScaling | None,
    position_scale: float,
    dtype: Any,
    lengths: Any = None,
) -> tuple[Any, Any]:
    """cos and sin `[*P, dims / 2]` of `position * position_scale * inv_freq` radians, times the attention factor.

    lengths: of each position's sequence, where the scaling goes by it.
    """

    def constant(numbers: np.ndarray) -> Any:
        return xp.asarray(numbers.tolist(), dtype=dtype)

    factor: Any
    if lengths is not None and scaling is not None:
        inv_freq, factor = frequencies_by_length(xp, xp.astype(lengths, dtype), constant, dims, base, scaling)
    else:
        inv_freq = constant(inverse_frequencies(dims, base, scaling)) if inv_freq is None else inv_freq
        factor = attention_factor(scaling)
    angles = xp.expand_dims(xp.astype(positions, dtype) * position_scale, axis=-1) * xp.astype(inv_freq, dtype)
    return xp.cos(angles) * factor, xp.sin(angles) * factor


def angle_size(positions: Any, inv_freq: Any, dims: int, attributes: Any, lengths: Any = None) -> np.ndarray:
    """The sizes `[*P, dims / 2]` of the angles, which the rounding error of a float32 angle is relative to. numpy
    only."""
    scaling = attributes.get("scaling")
    base = attributes.get("base", BASE)
    if lengths is not None:
        inv_freq, _ = frequencies_by_length(np, np.asarray(lengths, np.float64), np.asarray, dims, base, scaling)
    elif inv_freq is None:
        inv_freq = inverse_frequencies(dims, base, scaling)
    size: np.ndarray = np.abs(
        np.asarray(positions, np.float64)[..., None] * attributes.get("position_scale", 1.0) * inv_freq
    )
    return size
