"""Further cases of linear and embedding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.rows import MANY, SUBNORMAL_16, SUBNORMAL_32, near_top
from tinyllm.spec.cases import Case, constant, integers, normal
from tinyllm.spec.types import INTEGERS

AROUND = (1, 15, 16, 17, 31, 64, 65, 127, 129, 1023, 1024, 1025)
STAGES = (("decode", 1), ("prefill", 17))


def _linear_case(
    rows: tuple[int, ...],
    k: int,
    n: int,
    bias: bool = False,
    *,
    x: float = 1.0,
    weight: float | None = None,
    tier: str = "full",
    name: str = "",
) -> Case:
    """Weights are drawn so that outputs are of the size of x, unless told otherwise."""
    inputs = {"x": normal(*rows, k, scale=x), "weight": normal(n, k, scale=weight or max(k, 1) ** -0.5)}
    if bias:
        inputs["bias"] = normal(n, scale=x)
    id = "x".join(map(str, (*rows, k))) + f",N{n}" + (",bias" if bias else "")
    sizes = "".join(f",{what}{size:g}" for what, size, usual in (("x", x, 1.0), ("w", weight, None)) if size != usual)
    return Case(name + id + sizes, inputs, tier=tier, decision=20 if 0 in (*rows, k, n) else None)


def linear() -> Iterator[Case]:
    """Each size odd in turn, ranks with and without a bias, empty axes, magnitudes; the projections of real models."""
    for i, n in enumerate(AROUND):
        yield _linear_case((1,), n, 33, bias=i % 2 == 0)
        yield _linear_case((5,), 17, n, bias=i % 2 == 1)
    for m in (2, 8, 15, 17, 33, 129):
        yield _linear_case((m,), 31, 13, bias=m % 2 == 0)
    for m, k, n in ((8, 64, 32), (16, 128, 64), (64, 64, 64), (65, 6, 129), (129, 22, 65), (2, 74, 33), (3, 1030, 7)):
        yield _linear_case((m,), k, n, bias=True)
    yield _linear_case((1,), 1030, 6)
    yield _linear_case((65,), 74, 22)
    yield _linear_case((MANY,), 4, 3)
    yield Case("1x3,N65537,bias", {"x": normal(1, 3), "weight": normal(MANY, 3), "bias": normal(MANY)}, tier="full")
    ranks: tuple[tuple[int, ...], ...] = ((), (1, 1), (2, 1, 3), (1, 2, 1, 5))
    for rows in ranks:
        for bias in (False, True):
            yield _linear_case(rows, 65, 7, bias)
    for rows, k, n in (((), 0, 3), ((), 3, 0), ((0,), 0, 4), ((2, 0), 5, 3), ((2, 2), 0, 3)):
        yield _linear_case(rows, k, n, bias=n > 0)
    yield _linear_case((1, 2), 0, 3)
    yield _linear_case((3,), 129, 17, True, x=1e3)
    yield _linear_case((3,), 129, 17, True, x=SUBNORMAL_16)
    yield _linear_case((3,), 129, 17, True, x=SUBNORMAL_32)
    yield _linear_case((3,), 33, 17, x=1e-2, weight=100.0)
    yield _linear_case((3,), 33, 17, x=100.0, weight=1e-3)
    # sums of one sign pass 65,504 long before the other half takes them back
    halves = np.repeat([1.0, -1.0], 33)
    weight = constant(halves * np.linspace(0.5, 1, 5)[:, None])
    for count in (1, 33):
        yield Case(f"{count}x66,N5,near-60000", {"x": near_top(count, 66), "weight": weight}, tier="full")
    signs = np.where(np.arange(256) % 2, 1.0, -1.0)
    yield Case(
        "1x256,N5,cancels",
        {"x": constant(signs[None]), "weight": constant(np.outer([1.0, 2.0, 3.0, 0.5, 7.0], np.ones(256)))},
        tier="full",
    )
    fine = 1 + 2.0 ** -np.arange(10.0, 42.0)
    yield Case(
        "2x32,N32,bits-of-float64",
        {"x": constant(np.stack([np.ones(32), fine])), "weight": constant(np.diag(fine))},
        tier="full",
        decision=19,
    )
    yield from _projections()


def _projections() -> Iterator[Case]:
    """Small models' projections whole; of large ones a slice of the rows."""
    for model, most in (("SmolLM2-135M", 1536), ("Qwen2.5-0.5B", 512), ("Qwen3-0.6B", 256), ("Qwen2.5-7B", 33)):
        m = MODELS[model]
        bias = model.startswith("Qwen2.5")
        shapes = (
            ("q", m.hidden, m.q_width, bias),
            ("kv", m.hidden, 2 * m.kv_width, bias),
            ("o", m.q_width, m.hidden, False),
            ("up", m.hidden, m.intermediate, False),
            ("down", m.intermediate, m.hidden, False),
        )
        for i, (what, k, n, with_bias) in enumerate(shapes):
            stage, length = STAGES[i % 2] if model != "SmolLM2-135M" else STAGES[what in ("q", "down")]
            yield _linear_case((length,), k, min(n, most), with_bias, tier="model", name=f"{model},{stage},{what},")


def embedding() -> Iterator[Case]:
    """Row lengths, ranks and dtypes of ids, repeated and last rows, rows of any magnitude; tables of real models."""
    for i, d in enumerate(AROUND):
        v = AROUND[-1 - i]
        yield Case(f"5,V{v},D{d}", {"ids": integers(0, v, 5), "weight": normal(v, d)}, tier="full")
    for n in (1, 2, 31, 65, 129, 1025):
        yield Case(f"{n},V17,D5", {"ids": integers(0, 17, n), "weight": normal(17, 5)}, tier="full")
    for shape in ((1, 1), (3, 1, 2), (2, 3, 5, 1), (0, 3), (2, 0)):
        yield Case(
            f"{'x'.join(map(str, shape))},V17,D15",
            {"ids": integers(0, 17, *shape), "weight": normal(17, 15)},
            tier="full",
            decision=20 if 0 in shape else None,
        )
    for dtype in INTEGERS:
        yield Case(
            f"5,V100,D3,{dtype}", {"ids": constant([0, 99, 3, 0, 64], dtype), "weight": normal(100, 3)}, tier="full"
        )
        yield Case(f"scalar,V100,D3,{dtype}", {"ids": constant(99, dtype), "weight": normal(100, 3)}, tier="full")
    yield Case("0,V9,D0", {"ids": integers(0, 9, 0), "weight": normal(9, 0)}, tier="full", decision=20)
    for dtype in ("int32", "uint32"):
        far = constant([65535, 65536, 0, MANY + 2, 255, 256, 32768], dtype)
        yield Case(f"7,V65540,D4,{dtype}", {"ids": far, "weight": normal(MANY + 3, 4)}, tier="full")
    last = constant([1099, 0, 1050, 1048], "int32")
    yield Case("4,V1100,D1024", {"ids": last, "weight": normal(1100, 1024)}, tier="full")
    strange = np.where(np.arange(7)[:, None] % 3 == 1, [np.nan, np.inf, -np.inf], np.arange(21.0).reshape(7, 3))
    yield Case("3,V7,D3,NaN-and-infinity-elsewhere", {"ids": constant([0, 6, 2], "int32"), "weight": constant(strange)})
    yield Case("65537,V7,D2", {"ids": integers(0, 7, MANY), "weight": normal(7, 2)}, tier="full")
    ids = {"all-the-same": [3] * 33, "backwards": list(range(16, -1, -1)), "first-and-last": [0, 16] * 5}
    for name, given in ids.items():
        yield Case(
            f"{len(given)},V17,D17,{name}", {"ids": constant(given, "int32"), "weight": normal(17, 17)}, tier="full"
        )
    for name, scale in (("large", 1e4), ("subnormal16", SUBNORMAL_16), ("subnormal32", SUBNORMAL_32)):
        yield Case(f"5,V17,D17,{name}", {"ids": integers(0, 17, 5), "weight": normal(17, 17, scale=scale)}, tier="full")
    fine = 1 + 2.0 ** -np.arange(10.0, 42.0)
    yield Case(
        "3,V2,D32,bits-of-float64",
        {"ids": constant([1, 0, 1], "int64"), "weight": constant(np.stack([fine, -fine]))},
        tier="full",
        decision=19,
    )
    for model in ("SmolLM2-135M", "Qwen2.5-0.5B", "Llama-3-8B", "gpt-oss-20b"):
        rows, d = 257, MODELS[model].hidden
        for stage, length in STAGES:
            yield Case(
                f"{model},{stage},V{rows},D{d}",
                {"ids": integers(0, rows, length), "weight": normal(rows, d)},
                tier="model",
            )
    v, d = MODELS["SmolLM2-135M"].vocab, 16
    yield Case(
        f"SmolLM2-135M,whole-vocabulary,V{v},D{d}", {"ids": integers(0, v, 1, 65), "weight": normal(v, d)}, tier="model"
    )
