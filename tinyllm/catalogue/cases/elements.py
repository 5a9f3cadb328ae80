"""Further cases of the ops on elements: activations, sums and products."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.rows import LENGTHS, MANY, SUBNORMAL_16, SUBNORMAL_32, named, near_top, strange
from tinyllm.spec.cases import Case, Draw, constant, normal

SHAPES = ((MANY,), (65, 6), (129, 22), (5, 3), (3, 17, 1), (2, 3, 5, 7), (2, 1, 3, 1, 65))
"""More elements than 16 bits count, and each rank from 2 to 5."""
EMPTY = ((5, 0), (0, 5), (2, 0, 5), (1, 0, 0, 2))
"""Shapes of arrays without elements."""


def _elements() -> Iterator[tuple[str, Draw, str, int | None]]:
    """(name, draw, tier, decision) of the arrays on which a function of single elements is tried."""
    for shape in (*((n,) for n in LENGTHS), *SHAPES):
        yield named(*shape), normal(*shape, scale=3.0), "full", None
    for shape in EMPTY:
        yield named(*shape), normal(*shape), "full", 20
    draws = {
        "grid": constant(np.linspace(-24, 24, 769)),
        "zeros": constant([0.0, -0.0] * 9),
        "33,small": normal(33, scale=1e-3),
        "33,large": normal(33, scale=1e4),
        "37,near-60000": near_top(37),
        "40,huge": constant(np.tile([3e38, -3e38, 1e20, -1e20], 10)),
        "33,subnormal16": normal(33, scale=SUBNORMAL_16),
        "33,subnormal32": normal(33, scale=SUBNORMAL_32),
    }
    for name, draw in draws.items():
        yield name, draw, "full", None
    yield "71,NaN-and-infinity", strange(71), "full", 23


def _mlp() -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, shape) of the arrays that go through the activation in the feed-forward layers of real models."""
    for model in ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-7B", "Qwen3-8B", "Llama-3-8B", "Gemma-2-2B"):
        yield f"{model},decode", (1, MODELS[model].intermediate)
        yield f"{model},prefill", (5, MODELS[model].intermediate)


def silu() -> tuple[Case, ...]:
    """Lengths, ranks, a grid from -24 to 24, magnitudes; the feed-forward layers of real models."""
    cases = [Case(id, {"x": x}, tier=tier, decision=decision) for id, x, tier, decision in _elements()]
    return (*cases, *(Case(id, {"x": normal(*shape, scale=2.0)}, tier="model") for id, shape in _mlp()))


def gelu() -> Iterator[Case]:
    """The cases of `silu`, for the exact function and for the approximation by tanh."""
    for approximate in ("none", "tanh"):
        settings = {"approximate": approximate}
        yield from (
            Case(f"{id},{approximate}", {"x": x}, settings, tier, decision)
            for id, x, tier, decision in _elements()
            if len(x.shape) != 1 or x.shape[0] not in (2, 3, 31, 63, 1023)
        )
        yield from (
            Case(f"{id},{approximate}", {"x": normal(*shape, scale=2.0)}, settings, "model")
            for id, shape in _mlp()
            if id.startswith(("SmolLM2", "Gemma"))
        )


BROADCAST = (
    ((1, 17), (5, 17)),
    ((5, 17), (17,)),
    ((17,), (2, 3, 17)),
    ((2, 1, 1, 33), (1, 3, 5, 33)),
    ((65, 22), (1, 22)),
    ((129, 1, 6), (3, 6)),
    ((2, 3, 15), (3, 15)),
    ((1, 1, 1, 7), (7,)),
    ((0, 1, 3), (1, 4, 3)),
)
"""Pairs of shapes whose leading axes broadcast."""


def _pairs(first: str, second: str) -> Iterator[Case]:
    """Cases of a function of two arrays, element by element; first and second are the names of its inputs."""
    for id, x, tier, decision in _elements():
        other = normal(*x.shape, scale=2.0) if x.shape else normal()
        yield Case(id, {first: x, second: other}, tier=tier, decision=decision)
    odd = np.asarray([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -1.5])
    pairs = {first: constant(np.repeat(odd, 7)), second: constant(np.tile(odd, 7))}
    yield Case("49,pairs-of-NaN-and-infinity", pairs, {}, "full", 23)
    for a, b in BROADCAST:
        inputs = {first: normal(*a), second: normal(*b)}
        yield Case(f"broadcast,{named(*a)},{named(*b)}", inputs, tier="full", decision=20 if 0 in a else None)
    for bits, size in ((32, SUBNORMAL_32), (16, SUBNORMAL_16)):
        inputs = {first: normal(33, scale=size), second: normal(33, scale=size)}
        yield Case(f"33,both-subnormal{bits}", inputs, tier="full")


def swiglu() -> Iterator[Case]:
    """The cases of `silu`, with gates that broadcast, and with gpt-oss's limits; the feed-forward layers of real
    models."""
    yield from _pairs("gate", "up")
    limited = {"limit": 7.0, "alpha": 1.702, "up_offset": 1.0}
    yield from _some_pairs("gpt-oss", limited)
    for id, shape in _mlp():
        yield Case(id, {"gate": normal(*shape, scale=2.0), "up": normal(*shape)}, tier="model")


def _some_pairs(name: str, attributes: dict[str, Any]) -> Iterator[Case]:
    """Of a gated activation with other attributes: what is left over behind a vector, large numbers, NaN and infinity,
    and rows that broadcast."""
    for n in (1, 16, 17, 65):
        yield Case(
            f"3x{n},{name}", {"gate": normal(3, n, scale=6.0), "up": normal(3, n, scale=6.0)}, attributes, "full"
        )
    for id, gate, tier, decision in _elements():
        if "," in id or id == "grid":
            yield Case(f"{id},{name}", {"gate": gate, "up": normal(*gate.shape, scale=6.0)}, attributes, tier, decision)
    odd = np.asarray([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -1.5])
    pairs = {"gate": constant(np.repeat(odd, 7)), "up": constant(np.tile(odd, 7))}
    yield Case(f"49,pairs-of-NaN-and-infinity,{name}", pairs, attributes, "full", 23)
    for a, b in BROADCAST[:3]:
        yield Case(
            f"broadcast,{named(*a)},{named(*b)},{name}", {"gate": normal(*a), "up": normal(*b)}, attributes, "full"
        )


def geglu() -> Iterator[Case]:
    """As `swiglu`, by both formulas."""
    yield from _pairs("gate", "up")
    yield from _some_pairs("none", {"approximate": "none"})
    for id, shape in _mlp():
        if id.startswith("Gemma"):
            yield Case(id, {"gate": normal(*shape, scale=2.0), "up": normal(*shape)}, tier="model")


def sigmoid() -> Iterator[Case]:
    """The cases of `silu`, but for models."""
    for id, x, tier, decision in _elements():
        yield Case(id, {"x": x}, tier=tier, decision=decision)


def scale() -> Iterator[Case]:
    """The cases of `silu`, but for models, each with a factor."""
    for id, x, tier, decision in _elements():
        yield Case(f"{id},factor0.1", {"x": x}, {"factor": 0.1}, tier, decision)


def softcap() -> Iterator[Case]:
    """The cases of `silu`, but for models, with a cap; a small one, and a large one that leaves numbers as they are."""
    for id, x, tier, decision in _elements():
        yield Case(f"{id},cap5", {"x": x}, {"cap": 5.0}, tier, decision)
    for cap in (0.01, 1e4):
        yield Case(f"grid,cap{cap:g}", {"x": constant(np.linspace(-24, 24, 769))}, {"cap": cap}, "full")


def mul() -> Iterator[Case]:
    """Lengths, ranks, broadcasting, also of one number a row; products that are subnormal, or beyond float32."""
    yield from _pairs("x", "y")
    for a, b in BROADCAST:
        inputs = {"x": normal(*a), "y": normal(*b[:-1], 1)}
        yield Case(f"broadcast,{named(*a)},{named(*b[:-1], 1)}", inputs, tier="full", decision=20 if 0 in a else None)
    factors = constant(np.asarray([[np.nan], [np.inf], [-np.inf], [0.0], [2.0]]))
    yield Case("5x35,5x1,NaN-and-infinity", {"x": strange(5, 35), "y": factors}, {}, "full", 23)


def add() -> Iterator[Case]:
    """Lengths, broadcasting, sums that cancel or that float32 does not hold; residual connections of real models."""
    yield from _pairs("x", "y")
    yield Case("65537x1", {"x": normal(MANY, 1), "y": normal(MANY, 1)}, tier="full")
    yield Case("65x129", {"x": normal(65, 129), "y": normal(65, 129)}, tier="full")
    ones, small = np.ones(17), 2.0 ** -np.arange(2, 53, 3)
    yield Case("17,bits-of-float64", {"x": constant(ones), "y": constant(small)}, tier="full", decision=19)
    yield Case("17,cancels", {"x": constant(ones + small), "y": constant(-ones)}, tier="full", decision=19)
    for model, (stage, length) in product(
        ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen3-8B", "gpt-oss-20b"), (("decode", 1), ("prefill", 17))
    ):
        shape = length, MODELS[model].hidden
        yield Case(f"{model},{stage}", {"x": normal(*shape, scale=4.0), "y": normal(*shape)}, tier="model")
