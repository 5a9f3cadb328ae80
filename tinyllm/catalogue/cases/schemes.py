"""The cases that a scheme gets from its object alone, for each op that takes quantized weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.mha_cases import layer, with_weights
from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.catalogue.cases.rows import SUBNORMAL_16, SUBNORMAL_32
from tinyllm.catalogue.products.linear import linear_case
from tinyllm.catalogue.quantize.quantize import near_levels_case
from tinyllm.spec.cases import Case, Draw, constant, integers, integers_of, normal
from tinyllm.spec.rope import Rope
from tinyllm.spec.scheme import Scheme

IDS = ("int32", "int64", "int8", "uint8", "uint32")


def columns(scheme: Scheme, groups: int) -> int:
    """The length of a row of so many groups, or of as many times more as it takes for rows that the scheme allows."""
    length = one = scheme.block * groups * (8 if scheme.block == 1 else 1)  # one number is too short a row for most
    while scheme.check_parameters((1, length)) is not None:
        length += one
    return length


def _weight(scheme: Scheme, form: str, *shape: int) -> Draw:
    return Draw(shape, lambda rng: scheme.forms()[form](rng, shape))


def _named(scheme: Scheme, form: str) -> str:
    return f"{scheme},{form}" if form else str(scheme)


def _varied(scheme: Scheme, options: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Variants and forms crossed pairwise with the options; where there is one of each, the first options alone."""
    variants, forms = list(scheme.variants()), list(scheme.forms())
    if len(variants) * len(forms) > 1:
        yield from pairwise({"variant": variants, "form": forms, **options})


def linear(scheme: Scheme) -> Iterator[Case]:
    """Variants, forms, shapes and a bias crossed pairwise; empty axes, magnitudes; projections of a real model."""
    first, *others = scheme.variants()
    one, two, three = (columns(first, groups) for groups in (1, 2, 3))
    plain = partial(_weight, first, "")
    for variant in (first, *others):
        yield linear_case((2,), _weight(variant, "", 3, columns(variant, 1)), str(variant))
    for form in first.forms():
        if form:
            yield linear_case((2,), _weight(first, form, 3, two), _named(first, form))
            yield linear_case((65,), _weight(first, form, 33, three), _named(first, form), tier="full")
            yield linear_case((129,), _weight(first, form, 5, one), _named(first, form), bias=True, tier="full")
    yield linear_case((2, 3), plain(4, two), str(first), bias=True)
    yield linear_case((0,), plain(3, one), str(first), tier="full")
    yield linear_case((2,), plain(0, one), str(first), tier="full")
    yield linear_case((), plain(3, two), str(first), tier="full")
    yield linear_case((17,), plain(33, three), str(first), bias=True, tier="full")
    yield linear_case((), plain(0, one), str(first), tier="full")
    yield linear_case((2,), plain(3, 0), str(first), bias=True, tier="full")
    for size in (1e3, SUBNORMAL_16, SUBNORMAL_32):
        inputs = {"x": normal(3, three, scale=size), "weight": plain(17, three), "bias": normal(17, scale=size)}
        yield Case(f"3x{three},N17,{first},bias,x{size:g}", inputs, tier="full")
    yield from _hard_for_integers(first, two)
    options: dict[str, list[Any]] = {
        "rows": [(3,), (), (1,), (17,), (65,), (2, 1, 5)],
        "n": [33, 1, 17],
        "groups": [1, 2, 3],
        "bias": [False, True],
    }
    for row in _varied(scheme, options):
        weight = _weight(row["variant"], row["form"], row["n"], columns(row["variant"], row["groups"]))
        name = _named(row["variant"], row["form"])
        yield linear_case(row["rows"], weight, name, bias=row["bias"], tier="full", name="crossed:")
    for stage, rows in (("decode", 1), ("prefill", 17)):
        size = columns(first, max(1, MODELS["Qwen2.5-0.5B"].intermediate // first.block))
        yield linear_case((rows,), plain(65, size), str(first), tier="model", name=f"Qwen2.5-0.5B,{stage},down,")


def _hard_for_integers(scheme: Scheme, size: int) -> Iterator[Case]:
    """What products that take the numbers of x as integers of a common scale could get wrong: numbers far larger than
    their neighbours, weights that are 0 under the large ones, and NaN."""
    places = np.arange(size)
    stands_out = np.where(places % 32 == places // 32 * 5 % 32, 3e4, np.sin(places + 1.0))
    weight = _weight(scheme, "", 33, size)
    for rows in (1, 3):
        x = constant(np.stack([np.roll(stands_out, 11 * row) for row in range(rows)]))
        yield Case(f"{rows}x{size},N33,{scheme},one-stands-out", {"x": x, "weight": weight})
    if scheme.can_quantize:

        def zeros_below(rng: np.random.Generator) -> Any:
            """Nothing below 0, so that each scheme has the zeros as they are."""
            return scheme.quantize(np, np.abs(rng.standard_normal((33, size)) * (stands_out < 2)).astype(np.float32))

        for rows in (1, 3):
            inputs = {"x": constant(np.stack([stands_out] * rows)), "weight": Draw((33, size), zeros_below)}
            yield Case(f"{rows}x{size},N33,{scheme},zeros-under-what-stands-out", inputs)
        diagonal = Draw((size, size), lambda rng: scheme.quantize(np, np.eye(size, dtype=np.float32)))
        for rows in (1, 3):
            x = normal(rows, size)
            yield Case(f"{rows}x{size},N{size},{scheme},zeros-but-one", {"x": x, "weight": diagonal})
    x = np.sin(np.arange(3.0 * size)).reshape(3, size)
    x[1, size // 2] = np.nan
    yield Case(f"3x{size},N33,{scheme},NaN", {"x": constant(x), "weight": weight}, decision=23)


def embedding(scheme: Scheme) -> Iterator[Case]:
    """Variants, forms and ids crossed pairwise; empty axes; a table of a real model."""
    first, *others = scheme.variants()
    one, two = columns(first, 1), columns(first, 2)
    for variant in (first, *others):
        size = columns(variant, 1)
        ids = constant([6, 0, 3, 6], "int32")  # the last row and the first among them
        yield Case(f"4,V7,D{size},{variant}", {"ids": ids, "weight": _weight(variant, "", 7, size)})
    for form in first.forms():
        if form:
            weight = _weight(first, form, 5, two)
            yield Case(f"3,V5,D{two},{_named(first, form)}", {"ids": constant([4, 0, 2], "int32"), "weight": weight})
    table = _weight(first, "", 5, two)
    for name, ids in (("2x3", integers(0, 5, 2, 3)), ("scalar", constant(4, "int32")), ("0", constant([], "int32"))):
        yield Case(f"{name},V5,D{two},{first}", {"ids": ids, "weight": table}, tier="full")
    yield Case(
        f"0,V0,D{one},{first}", {"ids": constant([], "int32"), "weight": _weight(first, "", 0, one)}, tier="full"
    )
    yield Case(
        f"2,V17,D0,{first}", {"ids": integers_of("int32", 17, 2), "weight": _weight(first, "", 17, 0)}, tier="full"
    )
    yield Case(
        f"65,V300,D{two},{first}", {"ids": integers(0, 300, 65), "weight": _weight(first, "", 300, two)}, tier="full"
    )
    options: dict[str, list[Any]] = {"ids": [(5,), (), (1,), (65,), (2, 1, 17)], "dtype": list(IDS), "groups": [1, 3]}
    for row in _varied(scheme, options):
        weight = _weight(row["variant"], row["form"], 17, columns(row["variant"], row["groups"]))
        shape = "x".join(map(str, row["ids"])) or "scalar"
        name = f"crossed:{shape},D{weight.shape[1]},{_named(row['variant'], row['form'])},{row['dtype']}"
        yield Case(name, {"ids": integers_of(row["dtype"], 17, *row["ids"]), "weight": weight}, tier="full")


def dequantize(scheme: Scheme) -> Iterator[Case]:
    """Variants and forms crossed pairwise with shapes; stacks, as experts are; empty axes."""
    first, *others = scheme.variants()
    one, two = columns(first, 1), columns(first, 2)

    def case(variant: Scheme, form: str, *shape: int, tier: str = "smoke", name: str = "") -> Case:
        what = f"{name}{'x'.join(map(str, shape))},{_named(variant, form)}"
        return Case(what, {"weight": _weight(variant, form, *shape)}, tier=tier, decision=20 if 0 in shape else None)

    for variant in (first, *others):
        yield case(variant, "", 2, columns(variant, 1))
    for form in first.forms():
        if form:
            yield case(first, form, 2, two)
    yield case(first, "", 3, 2, two)
    yield case(first, "", 0, one)
    yield case(first, "", 3, 0, tier="full")
    yield case(first, "", 2, 0, one, tier="full")
    yield case(first, "", 33, columns(first, 5), tier="full")
    for row in _varied(scheme, {"rows": [3, 1, 65], "groups": [1, 2, 3], "lead": [(), (2,)]}):
        shape = (*row["lead"], row["rows"], columns(row["variant"], row["groups"]))
        yield case(row["variant"], row["form"], *shape, tier="full", name="crossed:")


def quantize(scheme: Scheme) -> Iterator[Case]:
    """Variants crossed pairwise with shapes and sizes of the scales; groups without extent; empty axes."""
    if not scheme.can_quantize:
        return
    first, *others = scheme.variants()
    size = columns(first, 2)
    for variant in (first, *others):
        yield near_levels_case(variant, 2, columns(variant, 1))
    yield near_levels_case(first, 2, 3, size)
    yield Case(f"2x{size},equal,{first}", {"w": constant(np.full((2, size), -0.75))}, {"scheme": first})
    yield Case(f"2x{size},zeros,{first}", {"w": constant(np.zeros((2, size)))}, {"scheme": first})
    for shape in ((0, size), (3, 0), (2, 0, size)):
        name = f"{'x'.join(map(str, shape))},{first}"
        yield Case(
            name, {"w": normal(*shape)}, {"scheme": first}, "smoke" if shape[-1] and len(shape) == 2 else "full", 20
        )
    for variant in (first, *others):
        some = np.zeros((2, columns(variant, 3)))
        some[0, variant.block : 2 * variant.block], some[1] = 1.0 - 2.0 * (np.arange(variant.block) % 2), -0.375
        name = f"2x{some.shape[1]},{variant},some-groups-equal"
        yield Case(name, {"w": constant(some)}, {"scheme": variant}, "full")
    options: dict[str, list[Any]] = {
        "lead": [(3,), (1,), (65,), (2, 3), (2, 1, 5)],
        "groups": [1, 2, 3],
        "exponents": [(-6, -3), (-14, -12), (3, 6)],
    }
    for row in _varied(scheme, options):
        if not row["form"]:
            shape = (*row["lead"], columns(row["variant"], row["groups"]))
            yield near_levels_case(row["variant"], *shape, tier="full", name="crossed:", exponents=row["exponents"])


def mha(scheme: Scheme) -> Iterator[Case]:
    """A layer whose projections are all of the scheme, and of schemes that quantize one where some are."""
    first = scheme.variants()[0]
    size = columns(first, 1)
    heads = next(n for n in (4, 2, 1) if size % (2 * n) == 0)
    inputs = layer(2, length=3, model=size, heads=heads, dim=size // heads)
    settings = {"num_heads": heads, "causal": True, "rope": Rope()}
    draw = partial(_weight, first, "")
    yield Case(f"all-projections,{first}", with_weights(inputs, draw), settings, decision=12)
    if scheme.can_quantize:  # of which projections are quantized no scheme knows: a few show it
        some = with_weights(inputs, draw, "vo")
        yield Case(f"some-projections,{first}", some, {"num_heads": heads}, tier="full", decision=12)
