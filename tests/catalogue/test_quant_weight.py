"""A quantized weight is held to its format before any kernel sees it: what does not fit is named, on every backend."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tinyllm import ops
from tinyllm.catalogue.quantize.dequantize import permuted, stacked
from tinyllm.conformance.subject import to_native
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import quantized
from tinyllm.spec.quantized import BITS, QuantWeight, check_quant_weight

AFFINE = permuted(3, 96).make(np.random.default_rng(0))
INT8 = quantized(3, 64, scheme="int8", bits=8).make(np.random.default_rng(1))


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
    "no biases": (having(AFFINE, biases=None), "arrays: expected q, scales, biases, got q, scales"),
    "no arrays": (AFFINE.with_arrays({}), "arrays: expected q, scales, biases, got none"),
    "zero points": (having(INT8, zeros=INT8.arrays["scales"]), "arrays: expected q, scales, got q, scales, zeros"),
    "biases of int8": (having(INT8, biases=INT8.arrays["scales"]), "arrays: expected q, scales, got biases, q, scales"),
    "a word too few": (having(AFFINE, q=AFFINE.arrays["q"][:, 1:]), "q: expected shape [3, 12], got [3, 11]"),
    "3 bits over words of 4": (replace(AFFINE, bits=3), "q: expected shape [3, 9], got [3, 12]"),
    "0 bits": (replace(AFFINE, bits=0), "bits: expected one of 2, 3, 4, 5, 6, 8, got 0"),
    "7 bits": (replace(AFFINE, bits=7), "bits: expected one of 2, 3, 4, 5, 6, 8, got 7"),
    "bits as text": (replace(AFFINE, bits="4"), "bits: expected one of 2, 3, 4, 5, 6, 8, got '4'"),
    "int8 of 4 bits": (replace(INT8, bits=4), "bits: expected one of 8, got 4"),
    "groups of 0": (replace(AFFINE, group_size=0), "group_size: expected an integer above 0, got 0"),
    "groups of True": (replace(AFFINE, group_size=True), "group_size: expected an integer above 0, got True"),
    "groups that do not divide": (
        replace(AFFINE, group_size=64),
        "shape: expected a row length that groups of 64 divide, got 96",
    ),
    "words not full": (
        QuantWeight("affine", {}, 4, 4, (3, 20)),
        "shape: expected rows whose 4-bit numbers fill whole words, got 20",
    ),
    "a vector": (replace(AFFINE, shape=(96,)), "shape: expected 2 or more sizes in a tuple, got (96,)"),
    "a list as shape": (replace(AFFINE, shape=[3, 96]), "shape: expected 2 or more sizes in a tuple, got [3, 96]"),
    "signed words": (having(AFFINE, q=AFFINE.arrays["q"].view(np.int32)), "q: expected uint32, got int32"),
    "unsigned int8": (having(INT8, q=INT8.arrays["q"].view(np.uint8)), "q: expected int8, got uint8"),
    "whole scales": (having(INT8, scales=np.ones((3, 2), np.int32)), "scales: expected float16 or float32, got int32"),
    "biases wider": (
        having(AFFINE, biases=AFFINE.arrays["biases"].astype(np.float32)),
        "biases: expected float16, got float32",
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
    with pytest.raises(InvalidInputError, match="^quantized_embedding: weight: " + re.escape(message)):
        ops.quantized_embedding(np.zeros(1, np.int32), weight, backend="numpy")
    with pytest.raises(InvalidInputError, match="^quantized_linear: weight: " + re.escape(message)):
        ops.quantized_linear(np.zeros((1, 96), np.float32), weight, backend="numpy")


@pytest.mark.parametrize("bits", BITS)
def test_what_is_made_here_fits(bits):
    for scheme in ("affine",) if bits != 8 else ("affine", "int8"):
        made = ops.quantize(
            np.random.default_rng(0).normal(size=(2, 3, 96)), bits=bits, group_size=32, scheme=scheme, backend="numpy"
        )
        check_quant_weight("test", "w", made)
    check_quant_weight("test", "w", stacked(2, 3, 96, bits=bits).make(np.random.default_rng(0)))
    check_quant_weight("test", "w", AFFINE)


def test_another_scheme_is_the_business_of_its_plugin():
    check_quant_weight("test", "w", QuantWeight("nf4", {}, 0, 0, ()))


def test_rows_stay_packed():
    ids = np.array([[2, 0], [1, 1]])
    rows = AFFINE.rows(lambda array: array[ids], ids.shape)
    assert rows.shape == (2, 2, 96)
    check_quant_weight("test", "w", rows)
    np.testing.assert_array_equal(ops.dequantize(rows, backend="numpy"), ops.dequantize(AFFINE, backend="numpy")[ids])
