import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm import ops
from tinyllm.catalogue.products.linear import linear
from tinyllm.catalogue.quantize.dequantize import dequantize, permuted
from tinyllm.catalogue.quantize.packing import pack, unpack, unpacked
from tinyllm.catalogue.quantize.quantize import quantize
from tinyllm.catalogue.quantize.quantized_embedding import quantized_embedding
from tinyllm.catalogue.quantize.quantized_linear import quantized_linear
from tinyllm.errors import UnsupportedError
from tinyllm.spec.cases import quantized
from tinyllm.spec.quantized import BITS, QuantWeight

formats = pytest.mark.parametrize(("scheme", "bits"), [*(("affine", b) for b in BITS), ("int8", 8)])
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


@formats
@given(w=weights, group_size=st.sampled_from([8, 32, 96]))
def test_there_and_back_is_off_by_half_a_step_at_most(scheme, bits, w, group_size):
    weight = quantize.reference(np, w, bits=bits, group_size=group_size, scheme=scheme)
    step = np.repeat(weight.arrays["scales"], group_size, axis=-1)
    error = np.abs(dequantize.reference(np, weight) - w)
    assert (error <= step / 2 * (1 + 1e-9)).all()
    assert error.max() > 0


@formats
@given(w=weights)
def test_quantizing_what_came_back_changes_nothing(scheme, bits, w):
    once = dequantize.reference(np, quantize.reference(np, w, bits=bits, group_size=32, scheme=scheme))
    twice = dequantize.reference(np, quantize.reference(np, once, bits=bits, group_size=32, scheme=scheme))
    np.testing.assert_allclose(twice, once, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", BITS)
def test_the_ends_of_a_group_are_kept(bits):
    w = np.random.default_rng(0).normal(size=(2, 32))
    back = dequantize.reference(np, quantize.reference(np, w, bits=bits, group_size=32))
    np.testing.assert_allclose([back.min(axis=1), back.max(axis=1)], [w.min(axis=1), w.max(axis=1)], rtol=1e-12)


@formats
def test_every_level_is_used(scheme, bits):
    """A ramp hits them all: none is given away at either end."""
    ramp = np.linspace(-1, 1, 2048)[None]
    weight = quantize.reference(np, ramp, bits=bits, group_size=2048, scheme=scheme)
    assert len(np.unique(dequantize.reference(np, weight))) == (255 if scheme == "int8" else 2**bits)


@pytest.mark.parametrize("value", [0.0, -0.75, 3.0])
def test_equal_numbers_come_back_exactly(value):
    weight = quantize.reference(np, np.full((2, 32), value), group_size=32)
    np.testing.assert_array_equal(dequantize.reference(np, weight), value)


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [(np.float32, "float32"), (np.float64, "float32"), (np.float16, "float16"), (ml_dtypes.bfloat16, "float16")],
)
def test_scales_are_as_wide_as_the_weight(dtype, scales):
    w = np.random.default_rng(0).normal(size=(2, 64)).astype(dtype)
    weight = ops.quantize(w, bits=8, backend="numpy")
    assert (weight.arrays["scales"].dtype, weight.arrays["biases"].dtype, weight.arrays["q"].dtype) == (
        scales,
        scales,
        "uint32",
    )
    step = np.repeat(weight.arrays["scales"].astype(np.float64), 64, axis=-1)
    error = np.abs(ops.dequantize(weight, backend="numpy") - w.astype(np.float64))
    assert (error <= step * 0.7).all()  # half a step, and what rounding the scale to 16 bits adds over 255 steps


@formats
def test_a_quantized_layer_is_the_layer_of_the_dequantized_weight(scheme, bits):
    rng = np.random.default_rng(3)
    weight = quantized(5, 96, bits=bits, scheme=scheme).make(rng)
    w, x, bias = dequantize.reference(np, weight), rng.normal(size=(2, 3, 96)), rng.normal(size=5)
    y = quantized_linear.reference(np, x, weight, bias=bias)
    np.testing.assert_allclose(y, linear.reference(np, x, w.astype(np.float64), bias=bias), rtol=1e-12)
    ids = np.array([[4, 0], [4, 2]])
    np.testing.assert_array_equal(quantized_embedding.reference(np, ids, weight), w[ids])


def test_columns_stored_in_another_order():
    weight = permuted(3, 64).make(np.random.default_rng(2))
    order = weight.arrays["permutation"]
    plain = weight.with_arrays({k: a for k, a in weight.arrays.items() if k != "permutation"})
    stored, w = ops.dequantize(plain, backend="numpy"), ops.dequantize(weight, backend="numpy")
    assert all((w[:, order[k]] == stored[:, k]).all() for k in range(64))
    np.testing.assert_array_equal(w, unpacked(weight))


@pytest.mark.parametrize("bits", BITS)
def test_mlx_reads_the_format(bits):
    mx = pytest.importorskip("mlx.core")
    weight = ops.quantize(
        np.random.default_rng(0).normal(size=(4, 128)).astype(np.float32), bits=bits, group_size=32, backend="numpy"
    )
    parts = [mx.array(weight.arrays[name]) for name in ("q", "scales", "biases")]
    theirs = np.asarray(mx.dequantize(*parts, group_size=32, bits=bits))
    np.testing.assert_allclose(theirs, ops.dequantize(weight, backend="numpy"), rtol=1e-6, atol=1e-6)


def test_a_scheme_of_another_plugin_is_not_guessed():
    weight = QuantWeight("nf4", {"q": np.zeros((2, 8), np.uint8), "scales": np.ones((2, 1))}, 4, 16, (2, 16))
    with pytest.raises(UnsupportedError, match="nf4"):
        dequantize.reference(np, weight)
