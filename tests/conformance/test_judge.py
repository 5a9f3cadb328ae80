"""The judge can say no: every kind of mistake that a kernel may make is found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import example, registry
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.conformance.bounds import bounds_of
from tinyllm.conformance.example import Example, arrays_in
from tinyllm.conformance.judge import judge
from tinyllm.conformance.subject import Subject
from tinyllm.spec.scheme import QuantWeight

EPS = float(np.finfo(np.float32).eps)


def wrong(tested: Example, outputs: tuple[Any, ...]) -> str:
    """What the judge finds wrong."""
    return judge(tested, outputs).message


def _right(op: str, case: str) -> tuple[Example, Any]:
    """A case, and what the reference gives in float32."""
    tested = example(op, case, "float32")
    outputs = Subject(registry(), registry().backend("numpy"), tested.spec, None)(tested)
    assert wrong(tested, outputs) == ""
    return tested, outputs[0]


def _one_element(y: Any) -> Any:
    y = y.copy()
    y[1, 500] *= 1 + 100 * EPS
    return y


def _nan(y: Any) -> Any:
    y = y.copy()
    y[0, 0] = np.nan
    return y


MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "one element of 4000": (_one_element, r"error of \S+ ulps \(allowed 4\) at \(1, 500\).*; 1 of 4000 are off"),
    "all a little": (lambda y: y * np.float32(1 + 100 * EPS), r"\d{4} of 4000 are off"),
    "NaN": (_nan, r"nan at \(0, 0\) where the reference has"),
    "infinite": (lambda y: y / np.float32(0), r"inf at \(0, 0\)"),
    "dtype": (lambda y: y.astype(np.float64), r"float64\[4, 1000\] instead of float32\[4, 1000\]"),
    "shape": (lambda y: y[:2], r"float32\[2, 1000\] instead of float32\[4, 1000\]"),
    "zeros": (lambda y: y * 0, "error of"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_are_found(mistake: str) -> None:
    tested, y = _right("softmax", "4x1000")
    spoil, words = MISTAKES[mistake]
    with np.errstate(all="ignore"):
        message = wrong(tested, (spoil(y),))
    assert re.search(words, message), message


def test_a_mean_error_within_the_elementwise_bound_is_found() -> None:
    """Every element off by nearly the tolerance in one direction is no rounding."""
    tested, y = _right("silu", "33x65")
    unit = tested.scales[0] * EPS
    assert "mean error" in wrong(tested, ((tested.expected[0] + 3 * unit).astype(np.float32),))
    assert wrong(tested, (y,)) == ""


def test_an_output_too_many_is_found() -> None:
    tested, y = _right("softmax", "4x1000")
    assert "2 outputs, the spec says 1" in wrong(tested, (y, y))


def test_quantized_mistakes_are_found() -> None:
    """A level beside the right one, scales in the wrong dtype, another scheme, and no QuantWeight at all."""
    tested, weight = _right("quantize", registry().spec("quantize").cases[2].id)
    q = weight.arrays["q"].copy()
    q[0, 0] ^= 1
    assert "dequantized: error" in wrong(tested, (weight.with_arrays({**weight.arrays, "q": q}),))
    scales = weight.arrays["scales"].astype(np.float64)
    assert "array scales: float64" in wrong(tested, (weight.with_arrays({**weight.arrays, "scales": scales}),))
    other = QuantWeight(Int8(32), weight.arrays, weight.shape)
    assert "scheme int8/32 instead of affine4/32" in wrong(tested, (other,))
    assert "ndarray instead of a QuantWeight" in wrong(tested, (q,))


def test_a_mean_error_of_a_quantized_weight_is_found() -> None:
    """Biases that are all three ulps off: each weight is within its bound, their mean is not."""
    tested, weight = _right("quantize", registry().spec("quantize").cases[2].id)
    biases = weight.arrays["biases"] * np.float32(1 + 3 * EPS)
    message = wrong(tested, (weight.with_arrays({**weight.arrays, "biases": biases}),))
    assert re.search(r"dequantized: mean error of \S+ ulps \(allowed 1\)", message), message
    biases = weight.arrays["biases"].copy()
    biases[0, 0] *= np.float32(1 + 3 * EPS)
    assert wrong(tested, (weight.with_arrays({**weight.arrays, "biases": biases}),)) == "", (
        "one group alone is within both"
    )


def test_exact_ops_allow_no_error() -> None:
    """Ops that only move numbers have tolerance 0."""
    spec = next(s for s in registry().specs.values() if s.tolerance == 0 and len(s.outputs) == 1 and s.cases[0].inputs)
    tested, y = _right(spec.name, spec.cases[0].id)
    assert wrong(tested, (y * np.float32(1 + EPS),))


@pytest.mark.parametrize(
    ("op", "dtype", "fine"),
    [
        ("linear", "float64", True),
        ("linear", "float32", False),
        ("silu", "float64", False),
    ],
)
def test_only_where_the_reference_sums_in_float64_may_both_err(op: str, dtype: str, fine: bool) -> None:
    """One and a half bounds off in one place: twice the bound is the limit there, and nowhere else."""
    case = next(c.id for c in registry().spec(op).all_cases if c.tier == "full")
    tested = example(op, case, dtype)
    (wanted,), (bound,) = tested.expected, bounds_of(tested)
    output = wanted.astype(dtype).astype(np.float64)
    place = np.unravel_index(int(np.argmax(bound.unit)), bound.unit.shape)
    output[place] = wanted[place] + 1.5 * bound.most * bound.unit[place]
    assert (wrong(tested, (output.astype(dtype),)) == "") is fine


@pytest.mark.parametrize(("op", "case"), [("linear", None), ("embedding", "int8")])
def test_what_is_drawn_is_read_only(op: str, case: str | None) -> None:
    """Examples are kept: who wrote to one would change what the next kernel is held to."""
    spec = registry().spec(op)
    cases = [*spec.cases, *spec.cases_of(registry().plugins.schemes["int8"])]
    tested = example(op, next(c.id for c in cases if case is None or case in c.id), "float32")
    arrays = [array for value in tested.inputs.values() for array in arrays_in(value)]
    assert len(arrays) > 1 and not any(array.flags.writeable for array in arrays)
