"""Calls as users make them: numpy in gives numpy out on any backend, native in gives native out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.compare import wrong
from tests.ops.harness import Example, backends, cases_of, example, registry, to_numpy
from tinyllm.ops import make_ops
from tinyllm.quant_weight import QuantWeight

OPS = make_ops(registry())


def _call(tested: Example, inputs: dict[str, Any], backend: str | None) -> tuple[Any, ...]:
    result = OPS[tested.spec.name](*tested.positional(inputs), **tested.keyword(inputs), backend=backend)
    return result if isinstance(result, tuple) else (result,)


def _arrays(value: Any) -> list[Any]:
    return list(value.arrays.values()) if isinstance(value, QuantWeight) else [value]


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("op", list(OPS))
def test_numpy_in_numpy_out(op: str, name: str) -> None:
    """Conversion and packing on the way change nothing."""
    for case in cases_of(registry().spec(op), "smoke"):
        tested = example(op, case.id, "float32")
        inputs = tested.native(registry().backend("numpy"))
        outputs = _call(tested, inputs, name)
        assert all(isinstance(a, np.ndarray) for output in outputs for a in _arrays(output))
        message = wrong(tested, outputs)
        assert not message, f"{name}/{op} [{case.id}]: {message}"


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("op", list(OPS))
def test_native_in_native_out(op: str, name: str) -> None:
    """Nobody has to say whose arrays they are."""
    backend = registry().backend(name)
    kind = type(backend.from_numpy(np.ones(1, np.float32)))
    native = [i.name for i in registry().spec(op).inputs if not i.host]
    for case in cases_of(registry().spec(op), "smoke"):
        tested = example(op, case.id, "float32")
        outputs = _call(tested, tested.native(backend), None if set(native) & tested.inputs.keys() else name)
        assert all(type(a) is kind for output in outputs for a in _arrays(output))
        message = wrong(tested, tuple(to_numpy(backend, output) for output in outputs))
        assert not message, f"{name}/{op} [{case.id}]: {message}"


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("mask_dtype", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_masks_of_any_dtype(dtype: str, mask_dtype: str, name: str) -> None:
    """They are added in float32, so that a mask that both dtypes hold gives the same in both."""
    rng = np.random.default_rng(2)
    q = rng.standard_normal((2, 3, 4)).astype(dtype)
    mask = np.round(rng.standard_normal((3, 3)) * 8) / 8
    outputs = [OPS["sdpa"](q, q, q, mask=mask.astype(kind), backend=name) for kind in (dtype, mask_dtype)]
    assert outputs[0].dtype == outputs[1].dtype == dtype
    np.testing.assert_array_equal(outputs[0], outputs[1])
