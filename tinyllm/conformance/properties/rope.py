"""Properties of rotary position embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.conformance.example import eps
from tinyllm.conformance.properties.search import Draws, Property, Run
from tinyllm.conformance.subject import Subject
from tinyllm.spec.rope import RopeScaling

SCALINGS = (
    None,
    RopeScaling("linear", 4.0),
    RopeScaling("llama3", 8.0, 64),
    RopeScaling("proportional", partial_rotary_factor=0.5),
)
"""Those that leave norms as they are."""
YARN = RopeScaling("yarn", 4.0, 32)


def _settings(draws: Draws, dims: int, *scalings: Any) -> dict[str, Any]:
    return {
        "base": draws.pick(10000.0, 5e5),
        "traditional": draws.flag(),
        "scaling": draws.pick(*scalings),
    } | ({"dims": draws.pick(2, dims)} if draws.flag() else {})


def _pairs(x: Any, dims: int, traditional: bool) -> Any:
    """The lengths of the pairs that turn, squared."""
    turned = x[..., :dims].astype(np.float64) ** 2
    return turned[..., ::2] + turned[..., 1::2] if traditional else turned[..., : dims // 2] + turned[..., dims // 2 :]


def norms_stay(subject: Subject, draws: Draws) -> str:
    """Turning changes no length, of no pair, at any position; dims that do not turn stay as they are."""
    width, length = draws.pick(4, 2, 8, 10), draws.pick(3, 1, 2)
    x = draws.normal(draws.pick(1, 2, 3), length, width)
    settings = _settings(draws, width, *SCALINGS)
    positions = np.asarray(draws.pick(0, 1, -5, 300, 131000) + np.arange(length), np.int32)
    run = draws.run(subject, {"x": x, "positions": positions}, **settings)
    dims = settings.get("dims", width)
    if not np.array_equal(run.outputs[0][..., dims:], x[..., dims:]):
        return f"dims past {dims} are not as they were"
    before, after = (np.sqrt(_pairs(a, dims, settings["traditional"])) for a in (x, run.outputs[0]))
    inner = run.example.inner_scales[0]  # an error of the angle changes no length
    turning = 0.0 if inner is None else subject.spec.tolerance * eps(run.example.inner_dtype) * np.abs(inner)
    bound = 2 * np.sqrt(_pairs(run.error - turning, dims, settings["traditional"]))
    return draws.beyond(after, before, bound, "lengths of pairs change: ")


def relative_position(subject: Subject, draws: Draws) -> str:
    """q.k depends on how far apart the two stand, and not on where."""
    width = draws.pick(4, 2, 8)
    q, k = draws.normal(1, width), draws.normal(1, width)
    settings = _settings(draws, width, *SCALINGS, YARN)
    start, apart, shift = draws.pick(0, 3, 40), draws.pick(1, 0, 7, -2), draws.pick(1, 5, 100, -30)

    def turned(x: Any, position: int) -> Run:
        return draws.run(subject, {"x": x, "offset": np.asarray(position, np.int32)}, **settings)

    products, bound = [], 0.0
    for where in (start, start + shift):
        a, b = turned(q, where), turned(k, where + apart)
        products.append(np.sum(a.first * b.first))
        bound += np.sum(a.error * np.abs(b.first) + np.abs(a.first) * b.error)
    return draws.beyond(products[1], products[0], bound, f"q.k of tokens {apart} apart changes with the place: ")


def offset_is_positions(subject: Subject, draws: Draws) -> str:
    """An offset, of all or of each sequence, is the positions that follow it."""
    batch, length, width = draws.pick(2, 1, 3), draws.pick(3, 1, 2), draws.pick(4, 2, 8)
    x = draws.normal(batch, *(draws.pick((), (1,), (2,))), length, width)
    settings = _settings(draws, width, *SCALINGS, YARN)
    starts = np.asarray(draws.rng.integers(-5, 50, (batch,)), np.int32)
    if draws.flag():
        offset, positions = starts, starts[:, None] + np.arange(length, dtype=np.int32)
    else:
        offset, positions = np.asarray(starts[0]), starts[0] + np.arange(length, dtype=np.int32)
    return draws.apart(subject, ({"x": x, "offset": offset}, settings), ({"x": x, "positions": positions}, settings))


def angles_then_rotation(subject: Subject, draws: Draws) -> str:
    """rope = rope_rotate(x, *rope_angles(positions))."""
    length, width = draws.pick(3, 1, 2), draws.pick(4, 2, 8, 10)
    x = draws.normal(draws.pick(1, 2, 3), length, width)
    settings = _settings(draws, width, *SCALINGS, YARN) | {"position_scale": draws.pick(1.0, 0.5)}
    positions = np.asarray(draws.rng.integers(-5, 300, (length,)), np.int32)
    whole = draws.run(subject, {"x": x, "positions": positions}, **settings)
    traditional = settings.pop("traditional")
    cos, sin = draws.other(subject, "rope_angles", {"positions": positions}, **{"dims": width} | settings).outputs
    apart = draws.other(subject, "rope_rotate", {"x": x, "cos": cos, "sin": sin}, traditional=traditional)
    return draws.differ(whole, *apart.outputs)


def on_the_circle(subject: Subject, draws: Draws) -> str:
    """cos^2 + sin^2 = 1, and the angle of -p is that of p turned round."""
    positions = np.asarray(draws.rng.integers(0, draws.pick(9, 1000, 131072), (draws.pick(3, 1, 2),)), np.int32)
    settings = {"dims": draws.pick(4, 2, 16), "base": draws.pick(10000.0, 5e5), "scaling": draws.pick(*SCALINGS)}
    run = draws.run(subject, {"positions": positions}, **settings)
    cos, sin = (a.astype(np.float64) for a in run.outputs)
    message = draws.beyond(cos**2 + sin**2, np.ones_like(cos), 4 * subject.spec.tolerance * 2.0**-23, "cos^2 + sin^2: ")
    back = draws.run(subject, {"positions": np.negative(positions)}, **settings)
    return message or draws.differ(run, back.outputs[0], -back.outputs[1])


def as_if_alone(subject: Subject, draws: Draws) -> str:
    """A position turns by the length of its own sequence, whoever else is there; in sequences of at most the original
    length it turns as without a scaling."""
    count, original = draws.pick(3, 2, 4), draws.pick(32, 9, 2)
    grows = RopeScaling("dynamic", 2.0, original)
    scaling = draws.pick(grows, RopeScaling("longrope", 1.0, original, short_factor=(1.0, 1.0), long_factor=(2.0, 9.0)))
    settings = {"dims": 4, "base": draws.pick(10000.0, 5e5)}
    positions = np.asarray(draws.rng.integers(0, 99, (count,)), np.int32)
    lengths = original + np.asarray(draws.rng.integers(-1, 3, (count,)), np.int32)
    whole = draws.run(subject, {"positions": positions, "lengths": lengths}, scaling=scaling, **settings)
    alone = []
    for row in range(count):
        one = {"positions": positions[row : row + 1], "lengths": lengths[row : row + 1]}
        if lengths[row] > original:
            run = draws.run(subject, one, scaling=scaling, **settings)
        else:
            run = draws.run(subject, {"positions": one["positions"]}, **settings)
        alone.append(run.outputs)
    return draws.differ(whole, *(np.concatenate(rows) for rows in zip(*alone, strict=True)))


def turned_back(subject: Subject, draws: Draws) -> str:
    """Turning by -angle undoes turning by angle; dims past the angles stay as they are."""
    pairs, length = draws.pick(2, 1, 4), draws.pick(3, 1, 2)
    x = draws.normal(draws.pick(1, 2, 3), length, 2 * pairs + draws.pick(0, 1, 3))
    angles = draws.rng.uniform(-4, 4, (length, pairs))
    cos, sin = (
        wave(angles).astype(np.float64 if draws.dtype == "float64" else np.float32) for wave in (np.cos, np.sin)
    )
    traditional = draws.flag()
    there = draws.run(subject, {"x": x, "cos": cos, "sin": sin}, traditional=traditional)
    back = draws.run(subject, {"x": there.outputs[0], "cos": cos, "sin": np.negative(sin)}, traditional=traditional)
    if not np.array_equal(there.outputs[0][..., 2 * pairs :], x[..., 2 * pairs :]):
        return f"dims past {2 * pairs} are not as they were"
    lengths = np.sqrt(2 * _pairs(there.error, 2 * pairs, traditional))  # an error of a pair turns with it
    spread = np.repeat(lengths, 2, axis=-1) if traditional else np.concatenate([lengths, lengths], axis=-1)
    bound = spread + back.error[..., : 2 * pairs]
    return draws.beyond(back.first[..., : 2 * pairs], x[..., : 2 * pairs], bound, "turned and turned back: ")


PROPERTIES = (
    Property("norms stay", "rope", norms_stay),
    Property("relative position only", "rope", relative_position),
    Property("offset is positions", "rope", offset_is_positions),
    Property(
        "angles then rotation", "rope", angles_then_rotation, ("float32", "bfloat16", "float16")
    ),  # angles are float32
    Property("on the circle", "rope_angles", on_the_circle),
    Property("as if alone", "rope_angles", as_if_alone),
    Property("turned back", "rope_rotate", turned_back),
)
