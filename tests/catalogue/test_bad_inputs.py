"""Wrong arguments are refused before any kernel runs; what each spec's own bad inputs give is checked by the
conformance kit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tinyllm.conformance.checks.refusals import NothingRuns
from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.ops import make_ops
from tinyllm.plugins.backend import Backend
from tinyllm.spec.op_spec import OpSpec


@pytest.fixture(scope="module")
def ops() -> dict[str, Any]:
    return dict(make_ops(NothingRuns(registry().plugins, registry().settings)))


@pytest.mark.parametrize("spec", [pytest.param(s, id=s.name) for s in registry().specs.values()])
def test_every_refused_name_says_what_to_write(spec: OpSpec, ops: dict[str, Any]) -> None:
    """Names of other libraries never pass, and the error says the word to use."""
    for name, advice in spec.refused.items():
        with pytest.raises(TinyllmError, match=re.escape(advice)):
            ops[spec.name](**{name: 1})


@pytest.mark.parametrize("spec", [pytest.param(s, id=s.name) for s in registry().specs.values()])
def test_misspelt_arguments_are_never_dropped(spec: OpSpec, ops: dict[str, Any]) -> None:
    """An unknown keyword is an error that suggests the nearest name; so is one argument too many or too few."""
    known = list(spec.signature.parameters)[-1]
    with pytest.raises(InvalidInputError, match=f"Did you mean '{known}'"):
        ops[spec.name](**{known + "_": None})
    with pytest.raises(InvalidInputError, match="arguments by position"):
        ops[spec.name](*[np.ones(2)] * (len(spec.positional) + 1))
    with pytest.raises(InvalidInputError, match=f"{spec.positional[0].name} must be given"):
        ops[spec.name]()


@pytest.mark.parametrize("name", [b for b in backends() if b == "mlx"])
def test_float64_is_never_narrowed(name: str, ops: dict[str, Any]) -> None:
    """A backend without float64 says so."""
    backend: Backend = registry().backend(name)
    assert "float64" not in backend.dtypes
    with pytest.raises(TinyllmError, match="float64"):
        ops["softmax"](np.ones(3), backend=name)


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("mask_dtype", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_masks_of_any_dtype(dtype: str, mask_dtype: str, name: str) -> None:
    """They are added in float32, so that a mask that both dtypes hold gives the same in both."""
    rng = np.random.default_rng(2)
    q = rng.standard_normal((2, 3, 4)).astype(dtype)
    mask = np.round(rng.standard_normal((3, 3)) * 8) / 8
    sdpa = make_ops(registry())["sdpa"]
    outputs = [sdpa(q, q, q, mask=mask.astype(kind), backend=name) for kind in (dtype, mask_dtype)]
    assert outputs[0].dtype == outputs[1].dtype == dtype
    np.testing.assert_array_equal(outputs[0], outputs[1])
