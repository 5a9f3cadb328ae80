import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinyllm.catalogue.rows.gelu import gelu
from tinyllm.catalogue.rows.silu import silu
from tinyllm.catalogue.rows.swiglu import swiglu

EPS = 2.0**-52
GRID = np.concatenate((np.linspace(-40, 40, 4001), np.linspace(-3, 3, 4001), [-1e30, -1e4, -0.0, 0.0, 1e4, 1e30]))
rows = arrays(np.float64, st.integers(0, 9), elements=st.floats(-1e6, 1e6))


def error(mine, exact):
    """The worst error relative to |x|, in units of eps."""
    return np.max(np.abs(mine - exact) / np.maximum(np.abs(GRID), 1e-300)) / EPS


def test_gelu_is_the_formula_with_the_erf_of_the_c_library():
    exact = np.asarray(
        [v * 0.5 * (math.erfc(-v * math.sqrt(0.5)) if v < 0 else 1 + math.erf(v * math.sqrt(0.5))) for v in GRID]
    )
    assert error(gelu.reference(np, GRID), exact) < 2


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_torch_judges_gelu(approximate):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.gelu(torch.from_numpy(GRID), approximate=approximate).numpy()
    assert error(gelu.reference(np, GRID, approximate=approximate), theirs) < gelu.tolerance


def test_torch_judges_silu():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.silu(torch.from_numpy(GRID)).numpy()
    assert error(silu.reference(np, GRID), theirs) < silu.tolerance


@pytest.mark.parametrize("reference", [silu.reference, gelu.reference], ids=["silu", "gelu"])
@given(x=rows)
def test_what_x_gets_and_minus_x_gets_differ_by_x(reference, x):
    np.testing.assert_allclose(reference(np, x) - reference(np, -x), x, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("reference", [silu.reference, gelu.reference], ids=["silu", "gelu"])
@given(x=rows)
def test_values_lie_between_0_and_x(reference, x):
    y = reference(np, x)
    assert np.all(np.abs(y) <= np.abs(x))
    assert np.all(y * np.sign(x) >= 0)


def test_the_two_gelus_are_near_and_not_the_same():
    gap = np.abs(gelu.reference(np, GRID) - gelu.reference(np, GRID, approximate="tanh"))
    assert 1e-4 < gap.max() < 1e-3


def test_nothing_overflows_in_float32():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        x = np.asarray([-3e38, -1000, 0, 1000, 3e38], np.float32)
        for reference in (silu.reference, gelu.reference):
            np.testing.assert_array_equal(reference(np, x), [0, 0, 0, 1000, np.float32(3e38)])


@given(gate=rows, factor=st.floats(-10, 10))
def test_swiglu_is_linear_in_up(gate, factor):
    np.testing.assert_allclose(
        swiglu.reference(np, gate, np.full_like(gate, factor)), silu.reference(np, gate) * factor
    )
