from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm import ops
from tinyllm.catalogue.products.embedding import embedding
from tinyllm.catalogue.products.linear import linear
from tinyllm.catalogue.quantize.dequantize import dequantize
from tinyllm.catalogue.quantize.quantize import quantize
from tinyllm.catalogue.schemes.affine import BITS, Affine
from tinyllm.catalogue.schemes.bits import pack, unpack
from tinyllm.catalogue.schemes.int8 import Int8

formats = pytest.mark.parametrize("scheme", [*(Affine(bits, 32) for bits in BITS), Int8(32)], ids=str)
weights = st.integers(0, 2**32).map(
    lambda seed: np.random.default_rng(seed).normal(size=(3, 96)) * 10.0 ** (seed % 7 - 3)
)


@given(bits=st.sampled_from(BITS), words=st.integers(1, 4), seed=st.integers(0, 99))
def test_packing_is_the_bit_stream_of_the_format(bits, words, seed):
    """Against a stream built bit by bit."""
    values = np.random.default_rng(seed).integers(0, 2**bits, (2, 32 * words))
    packed = pack(np, values, bits)
    streams = [sum(int(v) << (i * bits) for i, v in enumerate(row)) for row in values]
    assert [b"".join(w.tobytes() for w in row) for row in packed.astype("<u4")] == [
        s.to_bytes(4 * bits * words, "little") for s in streams
    ]
    np.testing.assert_array_equal(unpack(np, packed, bits, values.shape[-1]), values)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_row_may_be_a_single_word(bits):
    values = np.arange(32 // bits) % 2**bits
    np.testing.assert_array_equal(unpack(np, pack(np, values[None], bits), bits, len(values))[0], values)


def restored(w, scheme):
    """Floats quantized and dequantized, in float64."""
    return dequantize.reference(np, replace(quantize.reference(np, w, scheme=scheme), dtype="float64"))


@formats
@given(w=weights, group_size=st.sampled_from([8, 32, 96]))
def test_there_and_back_is_off_by_half_a_step_at_most(scheme, w, group_size):
    scheme = replace(scheme, group_size=group_size)
    step = np.repeat(quantize.reference(np, w, scheme=scheme).arrays["scales"], group_size, axis=-1)
    error = np.abs(restored(w, scheme) - w)
    assert (error <= step / 2 * (1 + 1e-9)).all()
    assert error.max() > 0


@formats
@given(w=weights)
def test_quantizing_what_came_back_changes_nothing(scheme, w):
    once = restored(w, scheme)
    np.testing.assert_allclose(restored(once, scheme), once, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", BITS)
def test_the_ends_of_a_group_are_kept(bits):
    w = np.random.default_rng(0).normal(size=(2, 32))
    back = restored(w, Affine(bits, 32))
    np.testing.assert_allclose([back.min(axis=1), back.max(axis=1)], [w.min(axis=1), w.max(axis=1)], rtol=1e-12)


@formats
def test_every_level_is_used(scheme):
    """A ramp hits them all: none is given away at either end."""
    numbers = restored(np.linspace(-1, 1, 2048)[None], replace(scheme, group_size=2048))
    assert len(np.unique(numbers)) == (2**scheme.bits if isinstance(scheme, Affine) else 255)


@pytest.mark.parametrize("value", [0.0, -0.75, 3.0])
def test_equal_numbers_come_back_exactly(value):
    np.testing.assert_array_equal(restored(np.full((2, 32), value), Affine(4, 32)), value)


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [(np.float32, "float32"), (np.float64, "float32"), (np.float16, "float16"), (ml_dtypes.bfloat16, "float16")],
)
def test_scales_are_as_wide_as_the_weight(dtype, scales):
    w = np.random.default_rng(0).normal(size=(2, 64)).astype(dtype)
    weight = ops.quantize(w, scheme=Affine(8), backend="numpy")
    assert weight.dtype == ops.dequantize(weight, backend="numpy").dtype == w.dtype
    assert (weight.arrays["scales"].dtype, weight.arrays["biases"].dtype, weight.arrays["q"].dtype) == (
        scales,
        scales,
        "uint32",
    )
    step = np.repeat(weight.arrays["scales"].astype(np.float64), 64, axis=-1)
    error = np.abs(ops.dequantize(replace(weight, dtype="float64"), backend="numpy") - w.astype(np.float64))
    assert (error <= step * 0.7).all()  # half a step, and what rounding the scale to 16 bits adds over 255 steps


@formats
def test_a_quantized_layer_is_the_layer_of_the_dequantized_weight(scheme):
    rng = np.random.default_rng(3)
    weight = replace(scheme.draw(rng, (5, 96)), dtype="float64")
    w, x, bias = dequantize.reference(np, weight), rng.normal(size=(2, 3, 96)), rng.normal(size=5)
    y = linear.reference(np, x, weight, bias=bias)
    np.testing.assert_allclose(y, linear.reference(np, x, w, bias=bias), rtol=1e-12)
    ids = np.array([[4, 0], [4, 2]])
    np.testing.assert_array_equal(embedding.reference(np, ids, weight), w[ids])


@formats
def test_columns_stored_in_another_order(scheme):
    weight = scheme.forms()["permuted"](np.random.default_rng(2), (3, 64))
    order = weight.arrays["permutation"]
    plain = weight.with_arrays({name: array for name, array in weight.arrays.items() if name != "permutation"})
    stored, w = ops.dequantize(plain, backend="numpy"), ops.dequantize(weight, backend="numpy")
    assert all((w[:, order[k]] == stored[:, k]).all() for k in range(64))
    assert not np.array_equal(w, stored)


@pytest.mark.parametrize("bits", BITS)
def test_mlx_reads_the_format(bits):
    mx = pytest.importorskip("mlx.core")
    w = np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32)
    weight = ops.quantize(w, scheme=Affine(bits, 32), backend="numpy")
    parts = [mx.array(weight.arrays[name]) for name in ("q", "scales", "biases")]
    theirs = np.asarray(mx.dequantize(*parts, group_size=32, bits=bits))
    np.testing.assert_allclose(theirs, ops.dequantize(weight, backend="numpy"), rtol=1e-6, atol=1e-6)
