"""Numbers that no array library takes are refused like any other bad attribute, and never end in its error."""

import numpy as np
import pytest

from tests.catalogue.harness import backends
from tinyllm import ops
from tinyllm.errors import InvalidInputError
from tinyllm.spec.attribute_checks import LARGEST, integer, number

HUGE = [10**19, -(10**19), 10**400, -(10**400), np.uint64(2**64 - 1)]
X = np.ones((2, 3, 4), np.float32)


@pytest.mark.parametrize("value", HUGE, ids=lambda value: f"{str(value)[:4]}..{len(str(value))}")
def test_what_64_bits_do_not_hold(value):
    assert "64 bits" in integer()(value)
    assert "64 bits" in number()(value)
    assert integer(1)(value).startswith("an integer of at least 1")
    assert number(above=0)(value).startswith("a finite number above 0")


@pytest.mark.parametrize("value", [0, 1, LARGEST, -LARGEST, np.int64(7), np.uint64(7)])
def test_what_64_bits_hold(value):
    assert integer()(value) is None
    assert number()(value) is None


@pytest.mark.parametrize("value", [1e300, -1e300, np.float32(1e30), np.float16(2), 5e-324])
def test_finite_floats_are_numbers(value):
    assert number()(value) is None
    assert integer()(value) == "an integer"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float16("inf"), True, "1", None, 1j])
def test_what_is_no_finite_number(value):
    assert number()(value) == "a finite number"


CALLS = {
    "window": lambda value, name: ops.sdpa(X, X, X, window=value, backend=name),
    "softcap": lambda value, name: ops.sdpa(X, X, X, softcap=value, backend=name),
    "scale": lambda value, name: ops.sdpa(X, X, X, scale=value, backend=name),
    "eps": lambda value, name: ops.rms_norm(X, X[0, 0], eps=value, backend=name),
    "position_scale": lambda value, name: ops.rope(X, position_scale=value, backend=name),
    "dims": lambda value, name: ops.rope_angles(np.arange(3), dims=value, backend=name),
    "axis": lambda value, name: ops.softmax(X, axis=value, backend=name),
}


@pytest.mark.parametrize("value", [10**19, 10**400], ids=["1e19", "1e400"])
@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("attribute", CALLS)
def test_every_op_names_the_attribute(attribute, name, value):
    with pytest.raises(InvalidInputError, match=f": {attribute}: expected .*64 bits, got 1000"):
        CALLS[attribute](value, name)


@pytest.mark.parametrize("name", backends())
def test_the_largest_window_is_no_window(name):
    np.testing.assert_allclose(ops.sdpa(X, X, X, window=LARGEST, backend=name), ops.sdpa(X, X, X, backend=name))


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("dims", [1 << 17, 10**18])
def test_dims_that_would_fill_memory(dims, name):
    with pytest.raises(InvalidInputError, match="rope_angles: dims: expected a positive even number of at most 65536"):
        ops.rope_angles(np.arange(3), dims=dims, backend=name)
