"""softmax, rms_norm, linear, add: what must hold for every row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinyllm.catalogue.products.linear import linear
from tinyllm.catalogue.rows.add import add
from tinyllm.catalogue.rows.rms_norm import rms_norm
from tinyllm.catalogue.rows.softmax import softmax

numbers = st.floats(-100, 100)
tables = arrays(np.float64, array_shapes(min_dims=1, max_dims=3, max_side=5), elements=numbers)
seeds = st.integers(0, 999)


@given(x=tables, shift=numbers)
def test_softmax_sums_to_1_and_ignores_a_shift(x, shift):
    weights = softmax.reference(np, x)
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(softmax.reference(np, x + shift), weights, rtol=1e-11, atol=1e-300)


@given(x=tables)
def test_softmax_keeps_order_and_follows_a_permutation(x):
    weights = softmax.reference(np, x)
    np.testing.assert_array_equal(np.take_along_axis(weights, np.argsort(x, axis=-1), -1), np.sort(weights, axis=-1))
    np.testing.assert_allclose(softmax.reference(np, x[..., ::-1]), weights[..., ::-1], rtol=1e-14)


def test_softmax_of_logs_gives_the_shares():
    np.testing.assert_allclose(softmax.reference(np, np.log([1.0, 2.0, 5.0])), [0.125, 0.25, 0.625])


@given(seed=seeds)
def test_softmax_along_an_axis_is_softmax_of_the_swapped(seed):
    x = np.random.default_rng(seed).standard_normal((2, 3, 4))
    np.testing.assert_array_equal(
        softmax.reference(np, x, axis=0), np.swapaxes(softmax.reference(np, np.swapaxes(x, 0, 2)), 0, 2)
    )


def test_the_bound_of_softmax_covers_float32():
    x = (np.random.default_rng(0).standard_normal((50, 1000)) * 20).astype(np.float32)
    exact = softmax.reference(np, x.astype(np.float64))
    bound = softmax.tolerance * 2.0**-23 * softmax.scale({"x": x}, {}, exact) + 2.0**-149
    assert np.all(np.abs(softmax.reference(np, x) - exact) <= bound)
    assert not np.all(np.abs(exact * (1 + 1e-4) - exact) <= bound)


@given(seed=seeds, width=st.integers(1, 20))
def test_rms_norm_gives_a_root_mean_square_of_1(seed, width):
    x = np.random.default_rng(seed).standard_normal((3, width)) + 0.1
    y = rms_norm.reference(np, x, np.ones(width), eps=0.0)
    np.testing.assert_allclose(np.sqrt(np.mean(y * y, axis=-1)), 1.0, rtol=1e-13)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_rms_norm_ignores_the_size_of_x_and_follows_the_weight(seed, factor):
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((2, 5)), rng.standard_normal(5)
    y = rms_norm.reference(np, x, weight, eps=0.0)
    np.testing.assert_allclose(rms_norm.reference(np, x * factor, weight, eps=0.0), y, rtol=1e-12)
    np.testing.assert_allclose(rms_norm.reference(np, x, weight * factor, eps=0.0), y * factor, rtol=1e-12)


def test_rms_norm_of_zeros_is_zeros():
    np.testing.assert_array_equal(rms_norm.reference(np, np.zeros((2, 4)), np.ones(4)), np.zeros((2, 4)))


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.5])
def test_torch_judges_rms_norm(eps):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 4, 65)), rng.standard_normal(65)
    theirs = torch.nn.functional.rms_norm(torch.from_numpy(x), (65,), torch.from_numpy(weight), eps).numpy()
    np.testing.assert_allclose(rms_norm.reference(np, x, weight, eps=eps), theirs, rtol=rms_norm.tolerance * 2.0**-52)


@given(seed=seeds, a=numbers, b=numbers)
def test_linear_is_linear(seed, a, b):
    rng = np.random.default_rng(seed)
    x, y, weight = rng.standard_normal((2, 4)), rng.standard_normal((2, 4)), rng.standard_normal((3, 4))
    apart = a * linear.reference(np, x, weight) + b * linear.reference(np, y, weight)
    np.testing.assert_allclose(linear.reference(np, a * x + b * y, weight), apart, atol=1e-11)


def test_linear_with_the_identity_adds_the_bias():
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    np.testing.assert_array_equal(linear.reference(np, x, np.eye(4), bias=np.arange(4.0)), x + np.arange(4.0))
    np.testing.assert_array_equal(linear.reference(np, x[0, 0], np.eye(4)), x[0, 0])


def test_torch_judges_linear():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((2, 5, 33)), rng.standard_normal((7, 33)), rng.standard_normal(7)
    theirs = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight, bias))).numpy()
    bound = linear.tolerance * 2.0**-52 * linear.scale({"x": x, "weight": weight, "bias": bias}, {}, theirs)
    assert np.all(np.abs(linear.reference(np, x, weight, bias=bias) - theirs) <= bound)


@given(x=tables)
def test_add_of_the_negative_is_0(x):
    np.testing.assert_array_equal(add.reference(np, x, -x), np.zeros_like(x))
