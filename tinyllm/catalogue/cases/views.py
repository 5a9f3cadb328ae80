"""Further cases of the ops that only cut and join: split, split_heads and merge_heads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.rows import named
from tinyllm.spec.cases import Case, normal


def split() -> Iterator[Case]:
    """Many parts, a single one, empty and unequal ones, along every axis; the merged projections of real models."""

    def case(
        shape: tuple[int, ...], sizes: tuple[int, ...], axis: int = -1, tier: str = "full", name: str = ""
    ) -> Case:
        id = f"{name}{named(*shape)},{'+'.join(map(str, sizes))},axis{axis}"
        return Case(
            id, {"x": normal(*shape)}, {"sizes": sizes, "axis": axis}, tier, 20 if 0 in (*shape, *sizes) else None
        )

    yield from (
        case((2, sum(sizes)), sizes)
        for sizes in ((15, 1), (1, 16), (17, 31, 33), (63, 65), (127, 129), (1023, 2), (1,) * 7, (7919,))
    )
    for shape in ((33,), (5, 17), (3, 17, 5), (2, 3, 15, 7)):
        yield from (case(shape, (1, shape[axis] - 1), axis) for axis in range(-len(shape), len(shape)))
    yield from (
        case((0,), (0, 0)),
        case((2, 3), (0, 3, 0), 1),
        case((2, 0, 3), (1, 2), 2),
        case((2, 0, 3), (0, 0), 1),
        case((1, 1), (1,), 0),
    )
    for model in ("SmolLM2-135M", "Qwen2.5-0.5B", "Llama-3-8B"):
        m = MODELS[model]
        for stage, length in (("decode", 1), ("prefill", 17)):
            for what, sizes in (
                ("qkv", (m.q_width, m.kv_width, m.kv_width)),
                ("gate-up", (m.intermediate, m.intermediate)),
            ):
                yield case((length, sum(sizes)), sizes, -1, "model", f"{model},{stage},{what},")


HEAD_DIMS = (1, 17, 40, 64, 72, 88, 120, 256)
HEADS_OF = ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen3-8B", "Llama-3-8B", "Phi-3-mini", "Phi-2", "Gemma-2B", "gpt-oss-20b")


def split_heads() -> Iterator[Case]:
    """Head sizes, groupings, ranks; the projections of real models."""

    def case(lead: tuple[int, ...], heads: tuple[int, ...], size: int, tier: str = "full", name: str = "") -> Case:
        shape = (*lead, sum(heads) * size)
        id = f"{name}{named(*shape)},{'+'.join(map(str, heads))},D{size}"
        return Case(id, {"x": normal(*shape)}, {"heads": heads}, tier, 20 if 0 in shape else None)

    yield from (case((3,), heads, size) for heads, size in product(((1,), (4, 1, 1)), HEAD_DIMS))
    yield from (case((3,), heads, 5) for heads in ((32, 1, 1), (7, 7), (1,) * 5, (2, 31), (65,)))
    leads = ((), (1,), (65,), (129,), (2, 17), (2, 1, 5), (1, 0), (0, 5), (2, 0, 3))
    yield from (case(lead, (2, 1, 1), 3) for lead in leads)
    yield from (case((2,), (2, 1), 0), case((0,), (1, 1), 0))
    for model, (stage, length) in product(HEADS_OF, (("decode", 1), ("prefill", 5))):
        m = MODELS[model]
        yield case((length,), (m.heads, m.kv_heads, m.kv_heads), m.head_dim, "model", f"{model},{stage},")


def merge_heads() -> Iterator[Case]:
    """Head sizes and counts, ranks; the outputs of attention in real models."""

    def case(shape: tuple[int, ...], tier: str = "full", name: str = "") -> Case:
        return Case(name + named(*shape), {"x": normal(*shape)}, tier=tier, decision=20 if 0 in shape else None)

    yield from (case((5, heads, size)) for heads, size in product((1, 3), HEAD_DIMS))
    yield from (case((2, heads, 15)) for heads in (15, 16, 17, 31, 33, 64))
    yield from (case((rows, 3, 22)) for rows in (65, 129))
    odd = ((1, 1), (17, 1), (1, 17), (2, 17, 3, 5), (2, 1, 3, 2, 7), (0, 0), (2, 0, 3), (2, 3, 0, 5))
    yield from map(case, odd)
    for model, (stage, length) in product(HEADS_OF, (("decode", 1), ("prefill", 5))):
        yield case((length, MODELS[model].heads, MODELS[model].head_dim), "model", f"{model},{stage},")
