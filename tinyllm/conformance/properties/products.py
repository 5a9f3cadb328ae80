"""Properties of matrix products and tables, plain and quantized."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.conformance.properties.random_arrays import quant_weight
from tinyllm.conformance.properties.search import Draws, Property, Run
from tinyllm.conformance.subject import Subject
from tinyllm.spec.scheme import Scheme


def linear_is_linear(subject: Subject, draws: Draws) -> str:
    """f(x + 2 y) = f(x) + 2 f(y), the bias counted once."""
    k, n = draws.pick(4, 1, 3, 17), draws.pick(3, 1, 8)
    lead = draws.pick((2,), (1,), (), (2, 3))
    weight = draws.normal(n, k)
    bias = {"bias": draws.normal(n)} if draws.flag() else {}

    def f(x: Any) -> Run:
        return draws.run(subject, {"x": x, "weight": weight} | bias)

    x, y = draws.eighths(*lead, k), draws.eighths(*lead, k)
    total, fx, fy = f(draws.cast(x.astype(np.float64) + 2 * y)), f(x), f(y)
    wanted = fx.first + 2 * fy.first - 2 * (bias["bias"].astype(np.float64) if bias else 0.0)
    return draws.beyond(total.first, wanted, total.error + fx.error + 2 * fy.error)


def rows_of_the_table(subject: Subject, draws: Draws) -> str:
    """Each id gets the row that it gets alone; all ids in order give the table."""
    rows, width = draws.pick(3, 1, 17), draws.pick(4, 1, 8)
    weight = draws.normal(rows, width)
    ids = np.asarray(draws.rng.integers(0, rows, draws.pick((2,), (), (0,), (2, 3))), np.int32)
    got = draws.run(subject, {"ids": ids, "weight": weight}).outputs[0]
    table = draws.run(subject, {"ids": np.arange(rows, dtype=np.int32), "weight": weight}).outputs[0]
    if not np.array_equal(table, weight):
        return "all ids in order do not give the table"
    return "" if np.array_equal(got, table[ids]) else "ids get other rows than they get in order"


def dequantized_first(subject: Subject, draws: Draws) -> str:
    """The product with a quantized weight is that with the matrix it stands for."""
    weight = quant_weight(draws, draws.pick(3, 1, 8, 17))
    x = draws.normal(*draws.pick((2,), (1,), (), (2, 3)), weight.shape[-1])
    bias = {"bias": draws.normal(weight.shape[0])} if draws.flag() else {}
    run = draws.run(subject, {"x": x, "weight": weight} | bias)
    matrix = draws.other(subject, "dequantize", {"weight": replace(weight, dtype="float32")})
    plain = {"x": x.astype(np.float32), "weight": matrix.outputs[0]} | {
        n: a.astype(np.float32) for n, a in bias.items()
    }
    return draws.differ(run, *draws.other(subject, "linear", plain).outputs)


def rows_dequantized_first(subject: Subject, draws: Draws) -> str:
    """Rows of a quantized table are those of the matrix it stands for."""
    weight = quant_weight(draws, draws.pick(3, 1, 17))
    ids = np.asarray(draws.rng.integers(0, weight.shape[0], draws.pick((2,), (), (0,), (2, 3))), np.int32)
    run = draws.run(subject, {"ids": ids, "weight": weight})
    matrix = draws.other(subject, "dequantize", {"weight": weight})
    return draws.differ(run, matrix.outputs[0][ids])


def a_second_time(subject: Subject, draws: Draws) -> str:
    """What was quantized once loses nothing when it is quantized again."""
    group = draws.pick(32, 64, 16)
    scheme: Scheme = draws.pick(*(Affine(bits, group) for bits in (4, 2, 3, 5, 6, 8)), Int8(group))
    w = draws.normal(
        draws.pick(2, 1, 5), (1 if group > 16 else 2) * group * draws.pick(1, 2), scale=draws.pick(0.05, 1.0)
    )
    first = draws.run(subject, {"w": w}, scheme=scheme).outputs[0]
    restored = draws.other(subject, "dequantize", {"weight": first}).outputs[0]
    again = draws.run(subject, {"w": restored}, scheme=scheme)
    return draws.differ(again, first)


def once_is_enough(subject: Subject, draws: Draws) -> str:
    """What a weight stands for, quantized in the same way, stands for the same."""
    weight = quant_weight(draws, draws.pick(2, 1, 5), plain=True)
    matrix = draws.run(subject, {"weight": weight})
    once = draws.other(subject, "quantize", {"w": matrix.outputs[0]}, scheme=weight.scheme).outputs[0]
    restored = draws.run(subject, {"weight": once})
    twice = draws.other(subject, "quantize", {"w": restored.outputs[0]}, scheme=weight.scheme).outputs[0]
    size = np.max(np.abs(restored.first), axis=-1, keepdims=True, initial=0.0)
    bound = restored.error + subject.spec.tolerance * 2.0**-23 * size
    return draws.beyond(draws.run(subject, {"weight": twice}).first, restored.first, bound)


WIDE = ("float32", "float64")
"""In 16 bits a level is rounded by more than levels are apart."""
SINGLE = ("float32",)
"""Beside 16 bits a weight may be rounded to them when it is expanded, and beside float64 it is expanded in that."""

PROPERTIES = (
    Property("linear", "linear", linear_is_linear),
    Property("rows of the table", "embedding", rows_of_the_table),
    Property("dequantized first", "linear", dequantized_first, SINGLE),
    Property("dequantized first", "embedding", rows_dequantized_first),
    Property("a second time", "quantize", a_second_time, WIDE),
    Property("once is enough", "dequantize", once_is_enough, WIDE),
)
