"""GGUF's block formats against the gguf package: every number is the same, however the blocks look."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import array_api_strict as strict
import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.bits import pack
from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.catalogue.schemes.gguf.blocks import GgufBlocks
from tinyllm.catalogue.schemes.gguf.repack import packed
from tinyllm.errors import InvalidInputError
from tinyllm.spec.quantized import check_quant_weight
from tinyllm.spec.reference_profile import DTYPES, FUNCTIONS
from tinyllm.spec.scheme import QuantWeight

KINDS = tuple(GGUF_SCHEMES)
kinds = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**32 - 1)
PROFILE = SimpleNamespace(**{name: getattr(strict, name) for name in (*FUNCTIONS, *DTYPES)})
SPECIAL = np.array([0.0, 2**-24, -(2**-24), 1023 * 2**-24, 2**-14, 65504, -65504], np.float16)
"""Zero, subnormal numbers and the largest."""


def extreme(scheme: GgufBlocks, seed: int, shape: tuple[int, ...]) -> QuantWeight:
    """Random bits; float16 fields are any finite numbers, one in three of them special."""
    rng = np.random.default_rng(seed)
    blocks = (*shape[:-1], shape[-1] // scheme.block)
    fields = {name: rng.integers(0, 256, (*blocks, size), dtype=np.uint8) for name, size in scheme.fields.items()}

    def halves() -> np.ndarray:
        anything = rng.integers(0, 2**16, (*blocks, 1), dtype=np.uint16).view(np.float16)
        finite = np.where(np.isfinite(anything), anything, np.float16(-1))
        return np.where(rng.random((*blocks, 1)) < 1 / 3, rng.choice(SPECIAL, (*blocks, 1)), finite)

    for name in scheme.halves:
        fields[name] = halves().view(np.uint8)
    if scheme.name == "iq1_m":  # its scale is spread over the upper nibbles of four integers
        nibbles = (halves().view(np.uint16) >> np.array([0, 4, 8, 12], np.uint16)) & np.uint16(15)
        fields["scales"][..., 1::2] = (fields["scales"][..., 1::2] & 15) | (nibbles << 4).astype(np.uint8)
    parts = [fields[name] for name in scheme.fields]
    raw = np.concatenate(parts, axis=-1).reshape(*shape[:-1], blocks[-1] * scheme.block_bytes)
    return QuantWeight(scheme, {"blocks": raw}, shape)


def by_gguf(weight: QuantWeight) -> np.ndarray:
    """What the gguf package says that the blocks mean."""
    with np.errstate(over="ignore"):
        kind = gguf.GGMLQuantizationType[weight.scheme.name.upper()]
        return np.asarray(gguf.quants.dequantize(weight.arrays["blocks"], kind))


def dequantized(weight: QuantWeight, dtype: Any = np.float32) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(weight.scheme.dequantize(np, weight, dtype))


@kinds
@given(seed=seeds, rows=st.integers(1, 4), blocks=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_blocks_mean_what_gguf_says(kind: str, seed: int, rows: int, blocks: int) -> None:
    """To the bit, the sign of zero included. Float64 rounds nothing, and float32 only the result."""
    scheme = GGUF_SCHEMES[kind]
    weight = extreme(scheme, seed, (rows, blocks * scheme.block))
    numbers, expected = dequantized(weight), by_gguf(weight)
    np.testing.assert_array_equal(numbers, expected)
    assert numbers.dtype == np.float32 and numbers.tobytes() == expected.tobytes()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(dequantized(weight, np.float64).astype(np.float32), numbers)


@kinds
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_as_affine_gives_the_same_numbers(kind: str, seed: int) -> None:
    scheme = GGUF_SCHEMES[kind]
    for weight in (extreme(scheme, seed, (2, 3, 512)), scheme.draw(np.random.default_rng(seed), (2, 512))):
        affine = scheme.as_affine(weight)
        check_quant_weight("test", "weight", affine)
        assert affine.scheme == scheme.affine
        np.testing.assert_array_equal(dequantized(affine), dequantized(weight))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "TQ1_0", "TQ2_0"])
def test_scales_stay_float16_where_that_is_exact(kind: str) -> None:
    scheme = GGUF_SCHEMES[kind]
    weight = scheme.draw(np.random.default_rng(0), (2, 512))
    assert scheme.as_affine(weight).arrays["scales"].dtype == np.float16


def test_a_bias_beyond_float16_makes_scales_and_biases_float32() -> None:
    blocks = np.zeros((1, 18), np.uint8)
    blocks[0, :2] = np.array([60000], np.float16).view(np.uint8)
    affine = GGUF_SCHEMES["Q4_0"].as_affine(QuantWeight(GGUF_SCHEMES["Q4_0"], {"blocks": blocks}, (1, 32)))
    assert affine.arrays["scales"].dtype == affine.arrays["biases"].dtype == np.float32
    assert dequantized(affine)[0, 0] == -8 * np.float32(np.float16(60000))


@kinds
def test_layout_is_that_of_ggml(kind: str) -> None:
    scheme = GGUF_SCHEMES[kind]
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] == (scheme.block, scheme.block_bytes)
    weight = scheme.draw(np.random.default_rng(0), (3, 512))
    assert scheme.bits_per_weight == 8 * weight.nbytes / (3 * 512)
    assert scheme.source.count(f"block_{kind.lower().replace('_k', '_K')}") == 1


@kinds
def test_references_run_on_the_profile(kind: str) -> None:
    """Only its functions are there, on a namespace that is as strict as the standard."""
    weight = extreme(GGUF_SCHEMES[kind], 1, (3, 512))
    native = weight.with_arrays({"blocks": strict.asarray(weight.arrays["blocks"])})
    flags = strict.ArrayAPIStrictFlags(api_version="2023.12", boolean_indexing=False, data_dependent_shapes=False)
    with flags, np.errstate(over="ignore"):
        for name in ("float32", "float64"):
            numbers = weight.scheme.dequantize(PROFILE, native, getattr(strict, name))
            assert numbers.dtype == getattr(strict, name)
            np.testing.assert_array_equal(np.asarray(numbers), dequantized(weight, name))


@kinds
def test_rows_of_a_table_are_blocks_too(kind: str) -> None:
    table = extreme(GGUF_SCHEMES[kind], 2, (5, 512))
    for ids in (np.array([[4, 0, 4], [1, 1, 2]]), np.array(3), np.zeros(0, int)):
        rows = table.rows(lambda array, ids=ids: array[ids], ids.shape)
        assert rows.arrays["blocks"].dtype == np.uint8
        np.testing.assert_array_equal(dequantized(rows), dequantized(table)[ids])


@kinds
@pytest.mark.parametrize("shape", [(3, 512), (2, 3, 256), (0, 256), (3, 0), (2, 0, 256)], ids=str)
def test_random_weights_are_as_large_as_trained_ones(kind: str, shape: tuple[int, ...]) -> None:
    scheme = GGUF_SCHEMES[kind]
    weight = scheme.draw(np.random.default_rng(0), shape)
    check_quant_weight("test", "weight", weight)
    check_quant_weight("test", "weight", scheme.as_affine(weight))
    numbers = dequantized(weight)
    assert numbers.shape == scheme.magnitude(weight).shape == shape
    assert not numbers.size or (0.03 < numbers.std() < 0.3 and np.abs(numbers).max() < 1)
    assert (scheme.magnitude(weight) >= np.abs(numbers) * (1 - 1e-6)).all()


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"])
def test_magnitude_does_not_cancel(kind: str) -> None:
    """The two terms of a format with a minimum are larger than their sum."""
    scheme = GGUF_SCHEMES[kind]
    weight = scheme.draw(np.random.default_rng(0), (4, 512))
    assert scheme.magnitude(weight).mean() > 1.5 * np.abs(dequantized(weight)).mean()


@kinds
def test_what_does_not_fit_is_refused(kind: str) -> None:
    scheme = GGUF_SCHEMES[kind]
    weight = scheme.draw(np.random.default_rng(0), (2, 512))
    blocks = weight.arrays["blocks"]
    size = blocks.shape[1]
    for arrays, shape, message in [
        ({"blocks": blocks[:, 1:]}, (2, 512), f"blocks: expected shape [2, {size}], got [2, {size - 1}]"),
        ({"blocks": blocks.view(np.int8)}, (2, 512), "blocks: expected uint8, got int8"),
        ({"blocks": blocks}, (2, 500), f"shape: expected a row length that groups of {scheme.block} divide, got 500"),
        ({"blocks": blocks}, (512,), "shape: expected 2 or more sizes in a tuple, got (512,)"),
        ({}, (2, 512), "arrays: expected blocks, got none"),
        ({"blocks": blocks, "scales": blocks}, (2, 512), "arrays: expected blocks, got blocks, scales"),
    ]:
        with pytest.raises(InvalidInputError, match=re.escape(f"test: weight: {message}")):
            check_quant_weight("test", "weight", QuantWeight(scheme, arrays, shape))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        *(("Q4_0", 0.15), ("Q4_1", 0.15), ("Q5_0", 0.08), ("Q5_1", 0.08), ("Q8_0", 0.01)),
        *(("MXFP4", 0.3), ("TQ1_0", 0.6), ("TQ2_0", 0.6)),
    ],
)
def test_blocks_that_gguf_made_are_near_the_weight(kind: str, error: float) -> None:
    """`error`: what a weight with deviation 1 may be off by, as a multiple of the largest number of its row."""
    w = np.random.default_rng(1).standard_normal((24, 512)).astype(np.float32)
    blocks = gguf.quants.quantize(w, gguf.GGMLQuantizationType[kind])
    weight = QuantWeight(GGUF_SCHEMES[kind], {"blocks": blocks}, w.shape)
    np.testing.assert_array_equal(dequantized(weight), by_gguf(weight))
    assert (np.abs(dequantized(weight) - w) <= error * np.abs(w).max(axis=1, keepdims=True)).all()


@given(seed=seeds, bits=st.sampled_from([2, 3, 4, 5, 6, 8]), words=st.integers(0, 4))
def test_repacking_writes_the_bit_stream_of_affine(seed: int, bits: int, words: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**bits, (2, 3, 32 * words), dtype=np.uint8)
    np.testing.assert_array_equal(packed(values, bits), pack(np, values, bits))


def test_schemes_are_equal_by_their_format_alone() -> None:
    assert GGUF_SCHEMES["Q4_0"] == replace(GGUF_SCHEMES["Q4_0"]) != GGUF_SCHEMES["Q4_1"]
    assert len({*GGUF_SCHEMES.values(), *map(replace, GGUF_SCHEMES.values())}) == len(KINDS)
    assert all(isinstance(GGUF_SCHEMES[kind].affine, Affine) for kind in ("Q4_0", "Q5_1", "Q2_K", "Q6_K", "TQ1_0"))
