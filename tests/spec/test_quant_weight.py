"""A quantized weight is held to its scheme before any kernel sees it: what does not fit is named, on every backend."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tinyllm import Affine, Int8, QuantWeight, ops
from tinyllm.catalogue.schemes import SCHEMES
from tinyllm.conformance.subject import to_native
from tinyllm.errors import InvalidInputError
from tinyllm.spec.quantized import check_quant_weight, dense, stack

AFFINE = Affine(4, 32).forms()["permuted"](np.random.default_rng(0), (3, 96))
INT8 = Int8(32).draw(np.random.default_rng(1), (3, 64))
SCALES = "float16 or bfloat16 or float32"


def having(weight, **arrays):
    """The weight with arrays changed; None takes one away."""
    return weight.with_arrays({k: a for k, a in {**weight.arrays, **arrays}.items() if a is not None})


def order(*values):
    """The identity but for its first entries."""
    return np.array([*values, *range(len(values), 96)], np.int32)


WRONG = {
    "scales of another shape": (
        having(AFFINE, scales=np.ones((3, 4), np.float16)),
        "scales: expected shape [3, 3], got [3, 4]",
    ),
    "one scale for all": (
        having(AFFINE, scales=np.ones((1, 1), np.float16)),
        "scales: expected shape [3, 3], got [1, 1]",
    ),
    "biases of another shape": (
        having(AFFINE, biases=AFFINE.arrays["biases"][:2]),
        "biases: expected shape [3, 3], got [2, 3]",
    ),
    "no biases": (having(AFFINE, biases=None), "arrays: expected q, scales, biases, got permutation, q, scales"),
    "no arrays": (AFFINE.with_arrays({}), "arrays: expected q, scales, biases, got none"),
    "zero points": (having(INT8, zeros=INT8.arrays["scales"]), "arrays: expected q, scales, got q, scales, zeros"),
    "biases of int8": (having(INT8, biases=INT8.arrays["scales"]), "arrays: expected q, scales, got biases, q, scales"),
    "a word too few": (having(AFFINE, q=AFFINE.arrays["q"][:, 1:]), "q: expected shape [3, 12], got [3, 11]"),
    "3 bits over words of 4": (replace(AFFINE, scheme=Affine(3, 32)), "q: expected shape [3, 9], got [3, 12]"),
    "another scheme's arrays": (replace(AFFINE, scheme=Int8(32)), "arrays: expected q, scales, got biases, "),
    "groups that do not divide": (
        replace(AFFINE, scheme=Affine(4, 64)),
        "shape: expected a row length that groups of 64 divide, got 96",
    ),
    "words not full": (
        QuantWeight(Affine(4, 4), {}, (3, 20)),
        "shape: expected a multiple of 8, so that rows of 4-bit numbers fill whole words, got 20",
    ),
    "a vector": (replace(AFFINE, shape=(96,)), "shape: expected 2 or more sizes in a tuple, got (96,)"),
    "a list as shape": (replace(AFFINE, shape=[3, 96]), "shape: expected 2 or more sizes in a tuple, got [3, 96]"),
    "a size below 0": (replace(AFFINE, shape=(-3, 96)), "shape: expected 2 or more sizes in a tuple, got (-3, 96)"),
    "a size of True": (replace(AFFINE, shape=(True, 96)), "shape: expected 2 or more sizes in a tuple, got (True, 96)"),
    "numbers that are no floats": (
        replace(AFFINE, dtype="int8"),
        "dtype: expected one of float16, bfloat16, float32, float64, got 'int8'",
    ),
    "signed words": (having(AFFINE, q=AFFINE.arrays["q"].view(np.int32)), "q: expected uint32, got int32"),
    "unsigned int8": (having(INT8, q=INT8.arrays["q"].view(np.uint8)), "q: expected int8, got uint8"),
    "whole scales": (having(INT8, scales=np.ones((3, 2), np.int32)), f"scales: expected {SCALES}, got int32"),
    "biases wider": (
        having(AFFINE, biases=AFFINE.arrays["biases"].astype(np.float32)),
        "biases: expected float16, got float32",
    ),
    "biases of the other 16 bits": (
        having(AFFINE, biases=AFFINE.arrays["biases"].astype(ml_dtypes.bfloat16)),
        "biases: expected float16, got bfloat16",
    ),
    "an input twice": (having(AFFINE, permutation=order(1)), "permutation: expected each column from 0 to 95 once"),
    "an input past the end": (
        having(AFFINE, permutation=order(96)),
        "permutation: expected each column from 0 to 95 once",
    ),
    "an input before the start": (
        having(AFFINE, permutation=order(-96)),
        "permutation: expected each column from 0 to 95 once",
    ),
    "a short permutation": (having(AFFINE, permutation=order()[:95]), "permutation: expected shape [96], got [95]"),
    "a permutation of floats": (
        having(AFFINE, permutation=order().astype(np.float32)),
        "permutation: expected int32, got float32",
    ),
}


@pytest.mark.parametrize("native", [False, True], ids=["numpy", "native"])
@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case, name, native):
    weight, message = WRONG[case]
    if native:
        weight = to_native(registry().backend(name), weight)
    with pytest.raises(InvalidInputError, match="^dequantize: weight: " + re.escape(message)):
        ops.dequantize(weight, backend=name)


@pytest.mark.parametrize("case", WRONG)
def test_every_op_looks(case):
    weight, message = WRONG[case]
    with pytest.raises(InvalidInputError, match="^embedding: weight: " + re.escape(message)):
        ops.embedding(np.zeros(1, np.int32), weight, backend="numpy")
    x = np.zeros((1, 96), np.float32)
    with pytest.raises(InvalidInputError, match="^linear: weight: " + re.escape(message)):
        ops.linear(x, weight, backend="numpy")
    with pytest.raises(InvalidInputError, match="^mha: o_proj: " + re.escape(message)):
        ops.mha(x, np.zeros((96, 96), np.float32), weight, num_heads=1, backend="numpy")


def test_a_scheme_that_is_none():
    with pytest.raises(InvalidInputError, match=r"^test: w: scheme: expected a Scheme, got 'affine'$"):
        check_quant_weight("test", "w", replace(AFFINE, scheme="affine"))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_what_a_scheme_draws_fits(scheme):
    """In each of its forms, as a matrix, a stack, and without rows."""
    for variant in scheme.variants():
        for form, draw in variant.forms().items():
            for rows in ((3,), (2, 3), (0,)):
                weight = draw(np.random.default_rng(0), (*rows, 32 * variant.block))
                check_quant_weight("test", "w", weight)
                assert weight.scheme == variant
                assert "scales" not in form or str(weight.arrays["scales"].dtype) == form.removesuffix(" scales")


@pytest.mark.parametrize("scheme", [s for s in SCHEMES.values() if s.can_quantize], ids=str)
def test_what_is_quantized_here_fits(scheme):
    for variant in scheme.variants():
        w = np.random.default_rng(0).normal(size=(2, 3, 32 * variant.block))
        check_quant_weight("test", "w", ops.quantize(w, scheme=variant, backend="numpy"))


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("scheme", [Affine(4, 32), Int8(32)], ids=str)
def test_scales_may_be_bfloat16(scheme, name):
    """The numbers are those that the formula gives for the very same scales."""
    weight = scheme.forms()["bfloat16 scales"](np.random.default_rng(2), (4, 64))
    assert weight.arrays["scales"].dtype == ml_dtypes.bfloat16
    exact = dense(np, weight, np.float64)
    bound = 2.0**-22 * scheme.magnitude(weight)
    assert (np.abs(ops.dequantize(weight, backend=name) - exact) <= bound).all()
    x = np.eye(64, dtype=np.float32)
    assert (np.abs(ops.linear(x, weight, backend=name) - exact.T) <= bound.T).all()


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("scheme", [Affine(4, 32), Int8(32), SCHEMES["q4_k"]], ids=str)
def test_a_weight_says_the_dtype_of_its_numbers(scheme, dtype, name):
    """dequantize and embedding give it; a product has that of x, whatever the weight's."""
    if dtype not in registry().backend(name).dtypes:
        pytest.skip(f"{name} has no {dtype}")
    weight = replace(scheme.draw(np.random.default_rng(0), (4, 256)), dtype=dtype)
    assert (weight.type.dtype, weight.type.shape, weight.type.scheme) == (dtype, (4, 256), scheme)
    exact = dense(np, weight, np.float64)
    for numbers, wanted in (
        (ops.dequantize(weight, backend=name), exact),
        (ops.embedding(np.array([[2, 0]]), weight, backend=name), exact[[[2, 0]]]),
    ):
        assert numbers.dtype == dtype
        bits = {"bfloat16": 8, "float16": 11}.get(dtype, 22)
        np.testing.assert_allclose(numbers.astype(np.float64), wanted, rtol=0, atol=np.abs(exact).max() * 2.0**-bits)
    assert ops.linear(np.ones((1, 256), np.float32), weight, backend=name).dtype == np.float32


def test_numbers_are_float32_unless_told_otherwise():
    weight = QuantWeight(AFFINE.scheme, AFFINE.arrays, AFFINE.shape)
    assert ops.dequantize(weight, backend="numpy").dtype == weight.dtype == "float32"


def test_rows_stay_quantized():
    ids = np.array([[2, 0], [1, 1]])
    rows = AFFINE.rows(lambda array: array[ids], ids.shape)
    assert rows.shape == (2, 2, 96) and rows.scheme == AFFINE.scheme
    assert rows.arrays["permutation"] is AFFINE.arrays["permutation"]
    check_quant_weight("test", "w", rows)
    np.testing.assert_array_equal(ops.dequantize(rows, backend="numpy"), ops.dequantize(AFFINE, backend="numpy")[ids])
    half = replace(AFFINE, dtype="float16")
    assert half.rows(lambda array: array[:0], (0,)).dtype == "float16"


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_a_stack_has_the_rows_of_all(scheme):
    rng = np.random.default_rng(3)
    parts = [replace(scheme.draw(rng, (rows, 2 * scheme.block)), dtype="bfloat16") for rows in (3, 0, 5)]
    whole = stack(parts)
    check_quant_weight("test", "w", whole)
    assert (whole.shape, whole.dtype, whole.scheme) == ((8, 2 * scheme.block), "bfloat16", scheme)
    numbers = np.concatenate([dense(np, part, np.float64) for part in parts])
    np.testing.assert_array_equal(dense(np, whole, np.float64), numbers)


@pytest.mark.parametrize("place", [0, 1])
def test_columns_in_an_order_of_their_own_are_not_stacked(place):
    plain = having(AFFINE, permutation=None)
    weights = [plain, plain]
    weights[place] = AFFINE
    assert stack(weights) is None
    assert stack([plain, plain]).shape == (6, 96)


def test_bytes_are_those_of_all_arrays():
    assert AFFINE.nbytes == 3 * 96 // 2 + 2 * 2 * 9 + 4 * 96
    assert Affine(4, 32).bits_per_weight == 5 and 8 * having(AFFINE, permutation=None).nbytes == 5 * 3 * 96
