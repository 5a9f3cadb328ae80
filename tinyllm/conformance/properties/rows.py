"""Properties of softmax, norms, activations and views."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.conformance.example import eps
from tinyllm.conformance.properties.search import Draws, Property
from tinyllm.conformance.subject import Subject


def shift_of_a_row(subject: Subject, draws: Draws) -> str:
    """softmax(x + c) = softmax(x), also where exp(x + c) is beyond all numbers."""
    x = draws.eighths(draws.pick(2, 1, 3), draws.pick(3, 1, 2, 8, 17))
    most = 1 / (8 * eps(draws.dtype)) - 4  # up to here x + c is exact
    shift = draws.pick(*(c for c in (1000.0, -1000.0, 100.0, 1.0, -3.0, 12.0) if abs(c) <= most))
    return draws.apart(subject, ({"x": x}, {}), ({"x": draws.cast(x.astype(np.float64) + shift)}, {}))


def rows_sum_to_1(subject: Subject, draws: Draws) -> str:
    """Weights are 0 or more, and sum to 1 along the axis."""
    shape = (draws.pick(2, 1, 3), draws.pick(3, 1, 5), draws.pick(4, 1, 2, 33))
    axis = draws.pick(-1, 0, 1, -2)
    run = draws.run(subject, {"x": draws.normal(*shape, scale=draws.pick(1.0, 8.0))}, axis=axis)
    if not np.all(run.first >= 0):
        return "weights below 0"
    bound = np.sum(np.broadcast_to(run.error, shape), axis=axis)
    return draws.beyond(np.sum(run.first, axis=axis), np.ones_like(bound), bound)


def scale_of_a_row(subject: Subject, draws: Draws) -> str:
    """rms_norm(c x, c^2 eps) = rms_norm(x, eps): the scale of a row goes, and eps is under the root."""
    width = draws.pick(4, 1, 3, 8, 17)
    x, weight = draws.normal(draws.pick(2, 1, 3), width), draws.normal(width)
    factor, small = draws.pick(4.0, 0.125, 2.0), draws.pick(0.5, 0.0, 1e-5)
    scaled = {"x": draws.cast(x * factor), "weight": weight}, {"eps": small * factor**2}
    return draws.apart(subject, ({"x": x, "weight": weight}, {"eps": small}), scaled)


def weight_of_a_row(subject: Subject, draws: Draws) -> str:
    """rms_norm(x, w) = rms_norm(x, 1) w."""
    width = draws.pick(4, 1, 3, 8, 17)
    x, weight = draws.normal(draws.pick(2, 1, 3), width), draws.normal(width)
    plain, run = (draws.run(subject, {"x": x, "weight": w}) for w in (np.ones_like(weight), weight))
    wide = weight.astype(np.float64)
    return draws.beyond(run.first, plain.first * wide, run.error + plain.error * np.abs(wide))


def shift_of_the_mean(subject: Subject, draws: Draws) -> str:
    """layer_norm(x + c) = layer_norm(x): the mean is taken out."""
    width = draws.pick(4, 1, 3, 8, 17)
    x, weight, bias = draws.eighths(draws.pick(2, 1, 3), width), draws.normal(width), draws.normal(width)
    shift = draws.pick(1.0, -3.0, 12.0)
    given = [{"x": each, "weight": weight, "bias": bias} for each in (x, draws.cast(x.astype(np.float64) + shift))]
    attributes = {"eps": draws.pick(0.5, 1e-5)}
    return draws.apart(subject, (given[0], attributes), (given[1], attributes))


def odd_part(subject: Subject, draws: Draws) -> str:
    """f(x) - f(-x) = x, for every x times a function that with its mirror image sums to 1."""
    x = draws.normal(draws.pick(3, 1, 2), draws.pick(4, 1, 17), scale=draws.pick(1.0, 4.0))
    attributes = {"approximate": "tanh"} if subject.spec.name == "gelu" and draws.flag() else {}
    there, back = (draws.run(subject, {"x": given}, **attributes) for given in (x, -x))
    return draws.beyond(there.first - back.first, x, there.error + back.error)


def silu_times_up(subject: Subject, draws: Draws) -> str:
    """swiglu(gate, up) = silu(gate) up."""
    return _opened(subject, draws, "silu", {})


def gelu_times_up(subject: Subject, draws: Draws) -> str:
    """geglu(gate, up) = gelu(gate) up, by either formula."""
    return _opened(subject, draws, "gelu", {"approximate": draws.pick("tanh", "none")})


def _opened(subject: Subject, draws: Draws, activation: str, attributes: dict[str, Any]) -> str:
    shape = draws.pick(2, 1, 3), draws.pick(4, 1, 17)
    gate, up = draws.normal(*shape, scale=3.0), draws.normal(*shape)
    opened = draws.other(subject, activation, {"x": gate}, **attributes)
    run, wide = draws.run(subject, {"gate": gate, "up": up}, **attributes), up.astype(np.float64)
    return draws.beyond(run.first, opened.first * wide, run.error + opened.error * np.abs(wide))


def mirror_image(subject: Subject, draws: Draws) -> str:
    """sigmoid(x) + sigmoid(-x) = 1; softcap(x) + softcap(-x) = 0."""
    x = draws.normal(draws.pick(3, 1, 2), draws.pick(4, 1, 17), scale=draws.pick(4.0, 1.0))
    attributes, total = ({"cap": draws.pick(2.0, 30.0)}, 0.0) if subject.spec.name == "softcap" else ({}, 1.0)
    there, back = (draws.run(subject, {"x": given}, **attributes) for given in (x, -x))
    return draws.beyond(there.first + back.first, np.full_like(there.first, total), there.error + back.error)


def in_two_steps(subject: Subject, draws: Draws) -> str:
    """scale(scale(x, 2 c), 1/2) = scale(x, c): the power of two rounds nothing."""
    x, factor = draws.normal(draws.pick(3, 1, 2), draws.pick(4, 1, 17)), draws.pick(0.3, -12.0, 1.0)
    once, twice = (draws.run(subject, {"x": x}, factor=c) for c in (factor, 2 * factor))
    return draws.beyond(draws.run(subject, {"x": twice.outputs[0]}, factor=0.5).first, once.first, 2 * once.error)


def either_order(subject: Subject, draws: Draws) -> str:
    """The order of the two arguments does not matter."""
    first, second = (i.name for i in subject.spec.positional)
    shape = draws.pick(2, 1, 3), draws.pick(4, 1, 17)
    a, b = draws.normal(*shape), draws.normal(*shape)
    return draws.apart(subject, ({first: a, second: b}, {}), ({first: b, second: a}, {}))


def parts_together(subject: Subject, draws: Draws) -> str:
    """The parts of a split, put together, are x, bit for bit."""
    sizes = tuple(draws.pick(2, 0, 1, 3) for _ in range(draws.pick(2, 1, 3)))
    axis = draws.pick(-1, -2, 0)
    shape = [draws.pick(2, 1, 3) for _ in range(3)]
    shape[axis] = sum(sizes)
    x = draws.normal(*shape)
    parts = draws.run(subject, {"x": x}, sizes=sizes, axis=axis).outputs
    return "" if np.array_equal(np.concatenate(parts, axis=axis), x) else "the parts put together are not x"


def heads_merged(subject: Subject, draws: Draws) -> str:
    """Heads split and merged again are x, bit for bit."""
    heads = tuple(draws.pick(2, 1, 3) for _ in range(draws.pick(2, 1, 3)))
    x = draws.normal(draws.pick(2, 1, 3), sum(heads) * draws.pick(3, 1, 4))
    if subject.spec.name == "split_heads":
        parts = draws.run(subject, {"x": x}, heads=heads)
        merged = draws.other(subject, "merge_heads", {"x": np.concatenate(parts.outputs, axis=-2)})
    else:
        parts = draws.other(subject, "split_heads", {"x": x}, heads=heads)
        merged = draws.run(subject, {"x": np.concatenate(parts.outputs, axis=-2)})
    return "" if np.array_equal(merged.outputs[0], x) else "heads split and merged again are not x"


PROPERTIES = (
    Property("shift of a row", "softmax", shift_of_a_row),
    Property("rows sum to 1", "softmax", rows_sum_to_1),
    Property("scale of a row", "rms_norm", scale_of_a_row),
    Property("weight of a row", "rms_norm", weight_of_a_row),
    Property("shift of a row", "layer_norm", shift_of_the_mean),
    Property("odd part", "silu", odd_part),
    Property("odd part", "gelu", odd_part),
    Property("silu times up", "swiglu", silu_times_up),
    Property("gelu times up", "geglu", gelu_times_up),
    Property("mirror image", "sigmoid", mirror_image),
    Property("mirror image", "softcap", mirror_image),
    Property("in two steps", "scale", in_two_steps),
    Property("either order", "add", either_order),
    Property("either order", "mul", either_order),
    Property("parts together", "split", parts_together),
    Property("heads merged", "split_heads", heads_merged),
    Property("heads merged", "merge_heads", heads_merged),
)
