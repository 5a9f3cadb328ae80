"""Further cases of the ops on rows: softmax and norms."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.spec.cases import Case, Draw, constant, normal

LENGTHS = (1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025)
"""The sizes of vectors and blocks, one less and one more."""
MANY = 65537
"""Rows, entries or columns that 16 bits do not count: they make 1 of it."""
SUBNORMAL_16, SUBNORMAL_32 = 1e-7, 1e-39
"""Factors of normal numbers that make them subnormal in float16, and in float32 and bfloat16."""


def named(*shape: int) -> str:
    """A shape as case ids have it: `2x3x4`, or `scalar` where there are no axes."""
    return "x".join(map(str, shape)) or "scalar"


def masked_scores(*shape: int, share: float = 0.3) -> Draw:
    """Scores of which a share is -inf, as a mask leaves them, but never a whole row."""

    def make(rng: Any) -> Any:
        excluded = rng.random(shape) < share
        excluded[..., 0] = False
        return np.where(excluded, -np.inf, rng.standard_normal(shape) * 3)

    return Draw(shape, make)


def strange(*shape: int) -> Draw:
    """Normal numbers, among which NaN, inf and -inf stand apart from one another: some where blocks of 4 to 64 begin or
    end, some in what is left over behind the last block."""

    def make(rng: Any) -> Any:
        numbers = rng.standard_normal(shape) * 2
        flat = numbers.reshape(-1)
        for places, value in (((0, 31, -1), np.nan), ((3, 32, -3), np.inf), ((7, 64, -5), -np.inf)):
            flat[list(places)] = value
        return numbers

    return Draw(shape, make)


def strange_rows(entries: int) -> Any:
    """Rows `[7, entries]` of growing numbers: NaN at the begin, in the last place; inf, -inf, both; all -inf; none."""
    rows = np.tile(np.linspace(-2, 2, entries), (7, 1))
    rows[0, 0] = rows[1, -1] = np.nan
    rows[2, entries // 2], rows[3, -2] = np.inf, -np.inf
    rows[4, [1, -1]] = np.inf, -np.inf
    rows[5] = -np.inf
    return rows


def near_top(*shape: int) -> Draw:
    """Numbers from 56,000 to 64,000: of one sign, and near the largest of float16."""
    return Draw(shape, lambda rng: 56e3 + 8e3 * rng.random(shape))


def softmax() -> Iterator[Case]:
    """Row lengths, every axis of every rank, excluded, equal and very different scores; scores of real models."""
    for n in (*LENGTHS, 7919):
        yield Case(f"2x{n},spread4", {"x": normal(2, n, scale=4.0)}, tier="full")
    for shape in ((17,), (5, 33), (3, 17, 5), (2, 3, 15, 7), (2, 1, 3, 2, 17)):
        for axis in range(-len(shape), len(shape)) if len(shape) < 4 else (-len(shape), -2, 1):
            yield Case(f"{named(*shape)},axis{axis}", {"x": normal(*shape, scale=2.0)}, {"axis": axis}, tier="full")
    for axis, shape in ((0, (1030, 3)), (1, (2, 2049, 5)), (0, (4096, 2)), (1, (1, 1500, 17)), (0, (MANY, 1))):
        yield Case(f"{named(*shape)},axis{axis}", {"x": normal(*shape, scale=4.0)}, {"axis": axis}, tier="full")
    for shape in ((65, 6), (129, 22), (3, 74), (2, 1030), (MANY, 4)):
        yield Case(f"{named(*shape)},spread4", {"x": normal(*shape, scale=4.0)}, tier="full")
    for axis, shape in ((0, (0, 3)), (1, (0, 3)), (1, (2, 0, 3)), (0, (2, 0, 3)), (-1, (1, 0))):
        yield Case(f"{named(*shape)},axis{axis}", {"x": normal(*shape)}, {"axis": axis}, "full", 20)
    alone = np.full((3, 17), -np.inf)
    alone[:, 5] = [0.0, -3e4, 3e4]
    draws = {
        "zeros": constant(np.zeros((2, 65))),
        "equal": constant(np.full((2, 33), -7.25)),
        "equal,many": constant(np.full((1, 1025), 3.0)),
        "spread100": normal(3, 129, scale=100.0),
        "large": normal(3, 65, scale=1e4),
        "all at -30000": Draw((65, 33), lambda rng: -3e4 + rng.integers(-4, 5, (65, 33)) * 16.0),
        "large,alike": Draw((3, 65), lambda rng: 2e4 + rng.integers(-2, 3, (3, 65)) * 16.0),
        "subnormal16": normal(3, 33, scale=SUBNORMAL_16),
        "subnormal32": normal(3, 33, scale=SUBNORMAL_32),
        "subnormal weights": constant(np.linspace(0, -120, 121)[None]),
        "holes": masked_scores(5, 129),
        "one key left": constant(alone),
        "nothing left": constant([[-np.inf] * 3, [0.0, 1.0, -np.inf]]),
    }
    for name, drawn in draws.items():
        yield Case(f"{named(*drawn.shape)},{name.replace(' ', '-')}", {"x": drawn}, tier="full")
    rising = constant(np.linspace(-600, 600, 300)[:, None] + np.arange(3.0))
    yield Case("300x3,axis0,rising", {"x": rising}, {"axis": 0}, "full")
    for n in (17, 131):
        yield Case(f"7x{n},NaN-and-infinity", {"x": constant(strange_rows(n))}, {}, "full", 23)
        yield Case(f"{n}x7,axis0,NaN-and-infinity", {"x": constant(strange_rows(n).T)}, {"axis": 0}, "full", 23)
    for model, length, keys in (
        ("SmolLM2-135M", 1, 513),
        ("SmolLM2-135M", 65, 65),
        ("Qwen2.5-7B", 1, 1025),
        ("gpt-oss-20b", 1, 128),
    ):
        heads = MODELS[model].heads
        yield Case(
            f"{model},{'decode' if length == 1 else 'prefill'},scores,L{length},S{keys}",
            {"x": masked_scores(heads, length, keys)},
            tier="model",
        )
    yield Case("Qwen2.5-0.5B,logits", {"x": normal(1, MODELS["Qwen2.5-0.5B"].vocab, scale=4.0)}, tier="model")
    yield Case("SmolLM2-135M,logits", {"x": normal(3, MODELS["SmolLM2-135M"].vocab, scale=8.0)}, tier="model")


def rms_norm() -> Iterator[Case]:
    """Row lengths, ranks, a large, a small and no eps, magnitudes; the norms of real models, those of heads too."""

    def case(
        shape: tuple[int, ...], eps: float | None = None, size: float = 1.0, tier: str = "full", name: str = ""
    ) -> Case:
        id = (
            f"{name}{named(*shape)}"
            + ("" if eps is None else f",eps{eps:g}")
            + ("" if size == 1 else f",scale{size:g}")
        )
        return Case(
            id,
            {"x": normal(*shape, scale=size), "weight": normal(shape[-1])},
            {} if eps is None else {"eps": eps},
            tier,
        )

    for n in (*LENGTHS, 7919):
        yield case((3, n))
    tables = ((65, 6), (129, 22), (3, 74), (2, 1030), (17, 40), (2, 3, 120), (MANY, 4))
    for shape in (*tables, (7,), (1, 1), (2, 3, 17), (2, 1, 3, 33), (1, 2, 1, 3, 5)):
        yield case(shape, 1e-5)
    for eps, size in product((0.0, 1e-12, 1e-3, 1.0), (1.0, 1e-3, 1e4)):
        yield case((3, 65), eps, size)
    for size in (SUBNORMAL_16, SUBNORMAL_32):
        yield case((3, 33), None, size)
    for shape, offset in (((3, 17), 1.0), ((3, 64), 1.0), ((2, 3, 131), -0.5)):
        inputs = {"x": normal(*shape), "weight": normal(shape[-1], scale=0.1)}
        yield Case(f"{named(*shape)},offset{offset:g}", inputs, {"offset": offset}, "full")
    for n in (17, 131):
        inputs = {"x": constant(strange_rows(n)), "weight": normal(n)}
        yield Case(f"7x{n},NaN-and-infinity", inputs, {}, "full", 23)
    yield Case("3x71,weight-NaN-and-infinity", {"x": normal(3, 71), "weight": strange(71)}, {}, "full", 23)
    row = np.zeros((2, 65))
    row[:, 31] = [1.0, -3e4]
    yield Case("2x65,one-not-zero", {"x": constant(row), "weight": normal(65)}, tier="full")
    yield Case("33x74,near-60000", {"x": near_top(33, 74), "weight": normal(74)}, tier="full")
    yield Case("2x33,weight-0", {"x": normal(2, 33), "weight": constant(np.zeros(33))}, tier="full")
    yield Case("2x33,weight-large", {"x": normal(2, 33), "weight": normal(33, scale=1e3)}, tier="full")
    for shape in ((2, 0, 5), (0, 3, 0), (0,)):
        yield Case(named(*shape), {"x": normal(*shape), "weight": normal(shape[-1])}, tier="full", decision=20)
    for model in ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-7B", "Llama-3.2-1B", "Phi-3-mini", "gpt-oss-20b"):
        sizes = MODELS[model]
        for stage, length in (("decode", 1), ("prefill", 33)):
            yield case((length, sizes.hidden), sizes.eps, 2.0, "model", f"{model},{stage},")
    for model in ("Qwen3-0.6B", "Qwen3-8B"):
        sizes = MODELS[model]
        for stage, length in (("decode", 1), ("prefill", 17)):
            yield case((length, sizes.heads, sizes.head_dim), sizes.eps, 3.0, "model", f"{model},{stage},q-norm,")
            yield case((length, sizes.kv_heads, sizes.head_dim), sizes.eps, 3.0, "model", f"{model},{stage},k-norm,")


def layer_norm() -> Iterator[Case]:
    """Row lengths, ranks, with and without bias, a large, a small and no eps, magnitudes; the norms of real models."""

    def inputs(shape: tuple[int, ...], size: float = 1.0) -> dict[str, Draw]:
        return {"x": normal(*shape, scale=size), "weight": normal(shape[-1]), "bias": normal(shape[-1])}

    for n in LENGTHS[1:]:
        yield Case(f"3x{n}", inputs((3, n)), tier="full")
    for shape in ((65, 6), (2, 1030), (MANY, 4), (7,), (1, 1), (2, 1, 3, 33)):
        given = inputs(shape)
        del given["bias"]
        yield Case(f"{named(*shape)},no-bias", given, tier="full")
    for eps, size in product((1e-12, 1e-3), (1.0, 1e-3, 1e4)):
        yield Case(f"3x65,eps{eps:g},scale{size:g}", inputs((3, 65), size), {"eps": eps}, "full")
    yield Case("3x65,eps0", inputs((3, 65)), {"eps": 0.0}, "full")
    yield Case("7x131,NaN-and-infinity", {**inputs((7, 131)), "x": constant(strange_rows(131))}, {}, "full", 23)
    yield Case("3x71,weight-NaN-and-infinity", {**inputs((3, 71)), "weight": strange(71)}, {}, "full", 23)
    yield Case("3x71,bias-NaN-and-infinity", {**inputs((3, 71)), "bias": strange(71)}, {}, "full", 23)
    yield Case("33x74,near-60000", {**inputs((33, 74)), "x": near_top(33, 74)}, tier="full")
    yield Case("0x3x0", inputs((0, 3, 0)), tier="full", decision=20)
    for stage, length in (("decode", 1), ("prefill", 17)):
        yield Case(f"StarCoder2-3B,{stage}", inputs((length, 3072), 2.0), {"eps": 1e-5}, "model")
