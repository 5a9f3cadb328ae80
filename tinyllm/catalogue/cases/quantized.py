"""Further cases of quantize, dequantize, quantized_linear and quantized_embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import gcd
from typing import Any

import numpy as np

from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.catalogue.cases.rows import SUBNORMAL_16, SUBNORMAL_32, named
from tinyllm.catalogue.quantize.dequantize import permuted, stacked, wide
from tinyllm.catalogue.quantize.quantize import near_levels
from tinyllm.spec.cases import Case, Draw, constant, integers, normal, quantized
from tinyllm.spec.quantized import WORD
from tinyllm.spec.types import INTEGERS

KINDS: Mapping[str, tuple[str, int]] = {
    "affine4": ("affine", 4),
    "affine2": ("affine", 2),
    "affine3": ("affine", 3),
    "affine5": ("affine", 5),
    "affine6": ("affine", 6),
    "affine8": ("affine", 8),
    "int8": ("int8", 8),
}
GROUPS = (32, 7, 8, 16, 64, 128)
FORMS: Mapping[str, Callable[..., Draw]] = {
    "plain": quantized,
    "wide": wide,
    "permuted": permuted,
    "stacked": lambda rows, columns, **settings: stacked(2, rows, columns, **settings),
}
"""Ways to draw a weight; "wide" has float32 scales."""
MATRICES = ("plain", "wide", "permuted")


def _columns(group_size: int, groups: int, bits: int) -> int:
    """Columns in `groups` groups, or in as many times more as it takes to fill whole words."""
    columns = group_size * groups
    return columns * (WORD // gcd(columns * bits, WORD))


def _weight(kind: str, form: str, group_size: int, groups: int, rows: int) -> Draw:
    scheme, bits = KINDS[kind]
    return FORMS[form](rows, _columns(group_size, groups, bits), bits=bits, group_size=group_size, scheme=scheme)


def quantize() -> tuple[Case, ...]:
    """Bits, group sizes, shapes and sizes of the scales crossed pairwise; groups without extent, empty axes; real
    projections."""
    return tuple(_quantize())


def _quantize() -> Iterator[Case]:
    def case(
        kind: str,
        group_size: int,
        lead: tuple[int, ...],
        columns: int,
        exponents: tuple[int, int] = (-6, -3),
        tier: str = "full",
        name: str = "",
    ) -> Case:
        scheme, bits = KINDS[kind]
        w = near_levels(
            *lead, columns, bits=bits, group_size=group_size, symmetric=scheme == "int8", exponents=exponents
        )
        id = f"{name}{named(*lead, columns)},{kind}/{group_size},exponents{exponents[0]}"
        return Case(id, {"w": w}, {"bits": bits, "group_size": group_size, "scheme": scheme}, tier)

    options: dict[str, Any] = {
        "kind": list(KINDS),
        "group": GROUPS,
        "lead": [(3,), (1,), (17,), (2, 3), (2, 1, 5)],
        "groups": [1, 2, 3],
        "exponents": [(-6, -3), (-14, -12), (3, 6)],
    }
    for row in pairwise(options):
        columns = _columns(row["group"], row["groups"], KINDS[row["kind"]][1])
        yield case(row["kind"], row["group"], row["lead"], columns, row["exponents"])
    for kind, (scheme, bits) in KINDS.items():
        settings = {"bits": bits, "group_size": 1, "scheme": scheme}
        yield Case(f"3x32,{kind},a-group-each", {"w": normal(3, 32)}, settings, "full")
    for kind in ("affine4", "affine3", "int8"):
        scheme, bits = KINDS[kind]
        settings = {"bits": bits, "group_size": 16, "scheme": scheme}
        some = np.zeros((2, 64))
        some[0, 16:32], some[1] = np.tile([1.0, -1.0], 8), -0.375
        yield Case(f"2x64,{kind}/16,some-groups-equal", {"w": constant(some)}, settings, "full")
        for shape in ((0, 32), (3, 0), (2, 0, 32)):
            yield Case(f"{named(*shape)},{kind}/16", {"w": normal(*shape)}, settings, "full", 20)
    for model, kind, group_size in (
        ("SmolLM2-135M", "affine4", 32),
        ("SmolLM2-135M", "int8", 64),
        ("Qwen2.5-0.5B", "affine4", 64),
    ):
        yield case(kind, group_size, (65,), MODELS[model].hidden, tier="model", name=f"{model},up,")


def dequantize() -> tuple[Case, ...]:
    """Bits, group sizes, forms of weights and dtypes crossed pairwise; empty axes; real projections."""
    return tuple(_dequantize())


def _dequantize() -> Iterator[Case]:
    options: dict[str, Any] = {
        "kind": list(KINDS),
        "group": GROUPS,
        "form": list(FORMS),
        "rows": [3, 1, 17],
        "groups": [1, 2, 3],
        "dtype": [None, "float32", "float16", "bfloat16"],
    }
    for row in pairwise(options):
        weight = _weight(row["kind"], row["form"], row["group"], row["groups"], row["rows"])
        id = f"{named(*weight.shape)},{row['kind']}/{row['group']},{row['form']}" + (
            f",to-{row['dtype']}" if row["dtype"] else ""
        )
        yield Case(id, {"weight": weight}, {"dtype": row["dtype"]} if row["dtype"] else {}, "full")
    for kind in ("affine4", "affine5", "int8"):
        for form in ("plain", "stacked"):
            yield Case(f"0-rows,{kind}/32,{form}", {"weight": _weight(kind, form, 32, 2, 0)}, {}, "full", 20)
            yield Case(f"0-columns,{kind}/32,{form}", {"weight": _weight(kind, form, 32, 0, 3)}, {}, "full", 20)
    for model, kind, group_size in (
        ("SmolLM2-135M", "affine4", 32),
        ("Qwen2.5-0.5B", "int8", 32),
        ("Qwen3-0.6B", "affine6", 64),
    ):
        groups = MODELS[model].hidden // group_size
        yield Case(
            f"{model},up,{kind}/{group_size}", {"weight": _weight(kind, "plain", group_size, groups, 65)}, {}, "model"
        )


def quantized_linear() -> tuple[Case, ...]:
    """Bits, group sizes, forms of weights, shapes and a bias crossed pairwise; empty axes, magnitudes; real
    projections."""
    return tuple(_quantized_linear())


def _linear_case(
    rows: tuple[int, ...], weight: Draw, what: str, bias: bool, tier: str = "full", name: str = "", size: float = 1.0
) -> Case:
    n, k = weight.shape
    inputs = {"x": normal(*rows, k, scale=size), "weight": weight} | ({"bias": normal(n, scale=size)} if bias else {})
    id = f"{name}{named(*rows, k)},N{n},{what}" + (",bias" if bias else "") + (f",x{size:g}" if size != 1 else "")
    return Case(id, inputs, tier=tier, decision=20 if 0 in (*rows, n, k) else None)


def _quantized_linear() -> Iterator[Case]:
    options: dict[str, Any] = {
        "kind": list(KINDS),
        "group": GROUPS,
        "form": MATRICES,
        "rows": [(3,), (), (1,), (17,), (2, 3), (2, 1, 5)],
        "n": [33, 1, 17],
        "groups": [1, 2, 3],
        "bias": [False, True],
    }
    for row in pairwise(options):
        weight = _weight(row["kind"], row["form"], row["group"], row["groups"], row["n"])
        yield _linear_case(row["rows"], weight, f"{row['kind']}/{row['group']},{row['form']}", row["bias"])
    for n, groups in ((32, 2), (64, 4)):
        yield _linear_case((32,), _weight("affine4", "plain", 32, groups, n), "affine4/32", True)
    for rows, n, groups, bias in (
        ((0,), 3, 2, True),
        ((2, 0), 3, 2, False),
        ((), 0, 2, False),
        ((2,), 3, 0, True),
        ((2,), 3, 0, False),
    ):
        for kind in ("affine4", "int8"):
            yield _linear_case(rows, _weight(kind, "plain", 32, groups, n), f"{kind}/32", bias)
    for size in (1e3, SUBNORMAL_16, SUBNORMAL_32):
        yield _linear_case((3,), _weight("affine4", "plain", 32, 3, 17), "affine4/32", True, size=size)
    for model, kind, group_size in (
        ("SmolLM2-135M", "affine4", 32),
        ("Qwen2.5-0.5B", "affine4", 64),
        ("Qwen3-8B", "affine4", 128),
    ):
        m = MODELS[model]
        for (stage, length), (what, k) in zip(
            (("decode", 1), ("prefill", 17)), (("down", m.intermediate), ("q", m.hidden)), strict=True
        ):
            weight = _weight(kind, "plain", group_size, k // group_size, 65)
            yield _linear_case(
                (length,), weight, f"{kind}/{group_size}", model == "Qwen2.5-0.5B", "model", f"{model},{stage},{what},"
            )


def quantized_embedding() -> tuple[Case, ...]:
    """Bits, group sizes, forms of tables, ids and dtypes crossed pairwise; empty axes; tables of real models."""
    return tuple(_quantized_embedding())


def _ids(dtype: str, *shape: int) -> Draw:
    """Rows of a table that has 17."""
    return Draw(shape, lambda rng: np.asarray(rng.integers(0, 17, shape), dtype))


def _quantized_embedding() -> Iterator[Case]:
    options: dict[str, Any] = {
        "kind": list(KINDS),
        "group": GROUPS,
        "form": MATRICES,
        "ids": [(5,), (), (1,), (2, 3), (2, 1, 17)],
        "ids_dtype": ["int32", "int64", "int8", "uint8", "uint32"],
        "groups": [1, 3],
        "dtype": [None, "float16", "bfloat16", "float32"],
    }
    for row in pairwise(options):
        weight = _weight(row["kind"], row["form"], row["group"], row["groups"], 17)
        id = f"{named(*row['ids'])},D{weight.shape[1]},{row['kind']}/{row['group']},{row['form']},{row['ids_dtype']}"
        settings = {"dtype": row["dtype"]} if row["dtype"] else {}
        yield Case(
            id + (f",to-{row['dtype']}" if row["dtype"] else ""),
            {"ids": _ids(row["ids_dtype"], *row["ids"]), "weight": weight},
            settings,
            "full",
        )
    for dtype in INTEGERS:
        weight = _weight("affine4", "plain", 32, 2, 100)
        yield Case(
            f"5,V100,first-and-last,{dtype}", {"ids": constant([0, 99, 3, 0, 64], dtype), "weight": weight}, {}, "full"
        )
    for shape in ((0, 3), (2, 0)):
        weight = _weight("int8", "plain", 32, 2, 17)
        yield Case(f"{named(*shape)},V17,D64", {"ids": _ids("int32", *shape), "weight": weight}, {}, "full", 20)
    yield Case(
        "0,V0,D64", {"ids": constant([], "int32"), "weight": _weight("affine4", "plain", 32, 2, 0)}, {}, "full", 20
    )
    yield Case("2,V17,D0", {"ids": _ids("int32", 2), "weight": _weight("affine4", "plain", 32, 0, 17)}, {}, "full", 20)
    for model, kind, group_size in (
        ("SmolLM2-135M", "affine4", 32),
        ("Qwen2.5-0.5B", "affine4", 64),
        ("Llama-3.2-1B", "int8", 32),
    ):
        for stage, length in (("decode", 1), ("prefill", 33)):
            weight = _weight(kind, "plain", group_size, MODELS[model].hidden // group_size, 257)
            yield Case(
                f"{model},{stage},V257,{kind}/{group_size}",
                {"ids": integers(0, 257, length), "weight": weight},
                {},
                "model",
            )
