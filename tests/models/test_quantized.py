"""Bit streams and GGUF blocks: what is packed comes back, and numbers equal ggml's own dequantisation."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.models.quantized import BLOCK_TYPES, dequantize, from_gguf_blocks, pack_bits, unpack_bits
from tinyllm.quant_weight import QuantWeight


@given(bits=st.integers(1, 16), rows=st.integers(0, 4), words=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_unpacking_undoes_packing_and_follows_the_stated_bits(bits: int, rows: int, words: int, seed: int) -> None:
    k = 32 * words // np.gcd(32, bits)
    values = np.random.default_rng(seed).integers(0, 1 << bits, (rows, k))
    packed = pack_bits(values, bits)
    assert packed.dtype == np.uint32
    assert packed.shape == (rows, k * bits // 32)
    assert np.array_equal(unpack_bits(packed, bits, int(k)), values)
    for row, words_of_row in zip(values, packed, strict=True):
        stream = sum(int(value) << index * bits for index, value in enumerate(row))
        assert [stream >> 32 * word & 0xFFFFFFFF for word in range(len(words_of_row))] == words_of_row.tolist()


@pytest.mark.parametrize(("bits", "k"), [(0, 32), (17, 32), (4, 7), (3, 31), (4, 0)])
def test_pack_bits_refuses_what_does_not_fill_words(bits: int, k: int) -> None:
    with pytest.raises(InvalidInputError, match=r"pack_bits: (bits|K): expected"):
        pack_bits(np.zeros((1, k), np.uint8), bits)


def test_unpack_bits_refuses_a_row_of_another_length() -> None:
    with pytest.raises(InvalidInputError, match="expected 4 words a row"):
        unpack_bits(np.zeros((1, 5), np.uint32), 4, 32)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), groups=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_blocks_mean_what_ggml_says(kind: str, seed: int, rows: int, groups: int) -> None:
    """Random bytes, with finite scales of every size: all numbers equal, to the bit."""
    random = np.random.default_rng(seed)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    raw = random.integers(0, 256, (rows, groups, size), np.uint8)
    halves = 2 if kind.endswith("_1") else 1
    numbers = (random.standard_normal((rows, groups, halves)) * 10.0 ** random.integers(-7, 5, (rows, groups, halves))).clip(-65504, 65504)
    raw[..., : 2 * halves] = numbers.astype(np.float16).view(np.uint8).reshape(rows, groups, -1)
    raw = raw.reshape(rows, -1)
    weight = from_gguf_blocks(raw, kind, (rows, groups * 32))
    assert weight.shape == (rows, groups * 32)
    assert np.array_equal(dequantize(weight), gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_a_real_weight_quantised_by_ggml(kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((24, 96)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    weight = from_gguf_blocks(raw, kind, values.shape)
    assert np.array_equal(dequantize(weight), gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]))
    assert np.abs(dequantize(weight) - values).max() < 0.5
    assert weight.arrays["scales"].dtype == np.float16


def test_a_bias_beyond_float16_is_kept_in_float32() -> None:
    raw = np.zeros((1, 18), np.uint8)
    raw[0, :2] = np.array([60000], np.float16).view(np.uint8)
    weight = from_gguf_blocks(raw, "Q4_0", (1, 32))
    assert weight.arrays["biases"].dtype == np.float32
    assert dequantize(weight)[0, 0] == -8 * np.float32(np.float16(60000))


def test_columns_may_be_permuted() -> None:
    q = pack_bits(np.arange(32)[None] % 16, 4)
    order = np.random.default_rng(0).permutation(32).astype(np.int32)
    plain = QuantWeight("affine", {"q": q, "scales": np.ones((1, 1), np.float32), "biases": np.zeros((1, 1), np.float32)}, 4, 32, (1, 32))
    permuted = plain.with_arrays({**plain.arrays, "permutation": order})
    assert np.array_equal(dequantize(permuted)[:, order], dequantize(plain))


def test_unknown_schemes_and_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="expected affine or int8, got ternary"):
        dequantize(QuantWeight("ternary", {}, 2, 32, (1, 32)))
    with pytest.raises(UnsupportedError, match="got Q4_K"):
        from_gguf_blocks(np.zeros((1, 144), np.uint8), "Q4_K", (1, 256))
