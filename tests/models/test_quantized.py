"""GGUF blocks: numbers equal ggml's own dequantization."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.catalogue.quantize.packing import unpacked
from tinyllm.errors import UnsupportedError
from tinyllm.models.checkpoints.gguf_blocks import BLOCK_TYPES, from_gguf_blocks


@pytest.mark.parametrize("kind", BLOCK_TYPES)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), groups=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_blocks_mean_what_ggml_says(kind: str, seed: int, rows: int, groups: int) -> None:
    """Random bytes, with finite scales of every size: all numbers equal, to the bit."""
    random = np.random.default_rng(seed)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    raw = random.integers(0, 256, (rows, groups, size), np.uint8)
    halves = 2 if kind.endswith("_1") else 1
    numbers = (
        random.standard_normal((rows, groups, halves)) * 10.0 ** random.integers(-7, 5, (rows, groups, halves))
    ).clip(-65504, 65504)
    raw[..., : 2 * halves] = numbers.astype(np.float16).view(np.uint8).reshape(rows, groups, -1)
    raw = raw.reshape(rows, -1)
    weight = from_gguf_blocks(raw, kind, (rows, groups * 32))
    assert weight.shape == (rows, groups * 32)
    assert np.array_equal(unpacked(weight), gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_a_real_weight_quantized_by_ggml(kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((24, 96)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    weight = from_gguf_blocks(raw, kind, values.shape)
    assert np.array_equal(unpacked(weight), gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]))
    assert np.abs(unpacked(weight) - values).max() < 0.5
    assert weight.arrays["scales"].dtype == np.float16


def test_a_bias_beyond_float16_is_kept_in_float32() -> None:
    raw = np.zeros((1, 18), np.uint8)
    raw[0, :2] = np.array([60000], np.float16).view(np.uint8)
    weight = from_gguf_blocks(raw, "Q4_0", (1, 32))
    assert weight.arrays["biases"].dtype == np.float32
    assert unpacked(weight)[0, 0] == -8 * np.float32(np.float16(60000))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="got Q4_K"):
        from_gguf_blocks(np.zeros((1, 144), np.uint8), "Q4_K", (1, 256))
