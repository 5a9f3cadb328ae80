"""Products with quantized weights are exact whatever the activations: held against float64, and against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.plugins import Affine, ArrayType, Call, Fp4, Fp8, Int8, Nf4, QuantWeight, ZeroPoint
from tinyllm.registry.registry import default_registry

pytest.importorskip("tinyllm_native.packing")
if not default_registry().probe("native").available:
    pytest.skip("no native library", allow_module_level=True)

from tinyllm_native.linear import ROUNDED, linear
from tinyllm_native.packing import FORMATS, pack

EPS = 2.0**-23
SCHEMES = {name: default_registry().plugins.schemes[name] for name in FORMATS}
SCHEMES |= {
    f"affine{bits}/{group}": Affine(bits, group) for bits, group in ((4, 32), (4, 64), (3, 16), (8, 32), (5, 8))
}
SCHEMES |= {str(scheme): scheme for scheme in (Int8(32), Fp8(128), Fp4(), Nf4(64))}
SCHEMES |= {str(scheme): scheme for scheme in (ZeroPoint(4, 128), ZeroPoint(3, 16), ZeroPoint(4, 32, symmetric=True))}
SHAPE = (33, 512)


def _call(weight: QuantWeight) -> Call:
    return Call("linear", {"x": ArrayType((1, weight.shape[1]), "float32"), "weight": weight.type}, {})


def _errors(x: np.ndarray, weight: QuantWeight, **more: Any) -> np.ndarray:
    """How far products are from float64's, in eps of the sums of the terms' sizes."""
    given = linear(x, pack(weight, _call(weight)), **more).astype(np.float64)
    wide = x.astype(np.float64)
    wanted = wide @ weight.scheme.dequantize(np, weight, np.float64).T
    size = np.abs(wide) @ weight.scheme.magnitude(weight).T
    error: np.ndarray = np.abs(given - wanted) / np.maximum(size, 1e-300) / EPS
    return error


@pytest.mark.parametrize("rows", [1, 2, 7, 13])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_an_error_is_that_of_a_sum_in_float32(scheme: Any, rows: int) -> None:
    """On numbers whose sizes differ as those of activations do."""
    rng = np.random.default_rng(rows)
    x = (rng.standard_normal((rows, SHAPE[1])) * np.exp(rng.standard_normal((rows, SHAPE[1])))).astype(np.float32)
    assert _errors(x, scheme.draw(rng, SHAPE)).max() < 6 / 8.2 * SHAPE[1] ** 0.5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(SCHEMES)),
    st.sampled_from([1, 3]),
    st.floats(-30, 30),
    st.integers(0, 40),
    st.floats(0, 12),
)
def test_numbers_of_any_size_beside_one_another(
    seed: int, name: str, rows: int, exponent: float, outliers: int, decades: float
) -> None:
    """Cells in which some numbers stand out by up to twelve decades."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, SHAPE[1])) * 10.0 ** (exponent / 2)
    places = rng.integers(0, SHAPE[1], outliers)
    x[:, places] *= 10.0 ** rng.uniform(0, decades, outliers)
    assert _errors(x.astype(np.float32), SCHEMES[name].draw(rng, SHAPE)).max() < 6 / 8.2 * SHAPE[1] ** 0.5


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("scheme", [Affine(4, 32), Affine(8, 32), Int8(32)], ids=str)
def test_weights_of_zero_hide_nothing(scheme: Any, rows: int) -> None:
    """Of a diagonal each product is one number times one weight, right to its last bits."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((rows, 96)) * np.exp(3 * rng.standard_normal((rows, 96)))).astype(np.float32)
    assert _errors(x, scheme.quantize(np, np.eye(96, dtype=np.float32))).max() < 4


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("scheme", [Affine(4, 32), Affine(8, 32), Int8(32)], ids=str)
def test_weights_of_zero_take_what_stands_out(scheme: Any, rows: int) -> None:
    """What a large number costs its neighbours is not paid for by its own product."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 128)).astype(np.float32)
    x[:, 3::32] = 1e4
    matrix = np.abs(rng.standard_normal((33, 128))).astype(np.float32)
    matrix[:, 3::32] = 0
    assert _errors(x, scheme.quantize(np, matrix)).max() < 4


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(rows: int, number: float) -> None:
    """And gives there what floats give."""
    rng = np.random.default_rng(0)
    weight = SCHEMES["q4_1"].draw(rng, SHAPE)
    x = rng.standard_normal((rows, SHAPE[1])).astype(np.float32)
    x[0, 37] = number
    y = linear(x, pack(weight, _call(weight)))
    column = weight.scheme.dequantize(np, weight, np.float32)[:, 37]
    np.testing.assert_array_equal(y[0], number * column)
    assert np.isfinite(y[1:]).all()


def test_a_row_is_the_same_alone_and_among_others() -> None:
    """Up to rounding: one row goes another way than several."""
    rng = np.random.default_rng(0)
    weight = SCHEMES["q4_k"].draw(rng, SHAPE)
    packed = pack(weight, _call(weight))
    x = rng.standard_normal((9, SHAPE[1])).astype(np.float32)
    together = linear(x, packed)
    alone = np.concatenate([linear(row[None], packed) for row in x])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_rounding_is_seen_in_several_rows_alone() -> None:
    """One row takes no longer exactly."""
    rng = np.random.default_rng(0)
    weight = SCHEMES["q4_1"].draw(rng, SHAPE)
    x = rng.standard_normal((4, SHAPE[1])).astype(np.float32)
    assert _errors(x[:1], weight, limbs=ROUNDED).max() < 4
    assert 100 < _errors(x, weight, limbs=ROUNDED).max() < 2.0**-7 / EPS


@pytest.mark.parametrize("name", SCHEMES)
def test_a_packed_weight_takes_what_its_arrays_do(name: str) -> None:
    """At most a quarter more, for formats whose scales have 6 bits."""
    weight = SCHEMES[name].draw(np.random.default_rng(0), (256, 1024))
    assert (
        sum(array.nbytes for array in pack(weight, _call(weight)).values())
        <= (1.25 if name.startswith("q") else 1.1) * weight.nbytes
    )
