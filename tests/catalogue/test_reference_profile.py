"""References use the functions of `reference_profile` and no others: they run on a namespace that has nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

from tests.catalogue.harness import cases_of, example, registry
from tinyllm.conformance.example import widen
from tinyllm.spec.reference_profile import DTYPES, FUNCTIONS
from tinyllm.spec.scheme import QuantWeight


class Profile:
    """The profile's names, on array_api_strict. Any other name, and matrix products of integers, are errors."""

    def __init__(self) -> None:
        for name in (*FUNCTIONS, *DTYPES):
            setattr(self, name, getattr(strict, name))
        self.used: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "used":
            self.used.add(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name!r} is not in the reference profile")

    def matmul(self, a: Any, b: Any) -> Any:
        assert strict.isdtype(a.dtype, "real floating"), "matrix product of integers"
        return strict.matmul(a, b)


@pytest.fixture
def xp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Profile]:
    profile = Profile()
    del profile.__dict__["matmul"]

    def refuse(self: Any, key: Any, value: Any) -> None:
        raise AssertionError("references do not assign to items")

    monkeypatch.setattr(type(strict.asarray(0)), "__setitem__", refuse)
    with strict.ArrayAPIStrictFlags(api_version="2023.12", boolean_indexing=False, data_dependent_shapes=False):
        yield profile


def _strict(value: Any) -> Any:
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: _strict(array) for name, array in value.arrays.items()})
    return strict.asarray(widen(value)) if isinstance(value, np.ndarray) else value


def _numpy(value: Any) -> Any:
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: _numpy(array) for name, array in value.arrays.items()})
    return np.asarray(value)


@pytest.mark.parametrize("op", list(registry().specs))
def test_reference_keeps_to_the_profile(op: str, xp: Profile) -> None:
    """It runs on the strict namespace in float64 and says what it says on numpy."""
    for case in cases_of(registry().spec(op), "smoke"):
        tested = example(op, case.id, "float64")
        inputs = {name: value if name in tested.spec.host else _strict(value) for name, value in tested.inputs.items()}
        with np.errstate(all="ignore"):
            result = tested.spec.reference(xp, *tested.positional(inputs), **tested.keyword(inputs))
        outputs = tuple(_numpy(r) for r in (result if isinstance(result, tuple) else (result,)))
        for output, expected in zip(outputs, tested.expected, strict=True):
            _assert_same(output, expected, f"{op} [{case.id}]")
    assert xp.used <= {*FUNCTIONS, *DTYPES}


def _assert_same(output: Any, expected: Any, where: str) -> None:
    if isinstance(expected, QuantWeight):
        assert output.arrays.keys() == expected.arrays.keys(), where
        for name in expected.arrays:
            _assert_same(output.arrays[name], expected.arrays[name], f"{where} {name}")
        return
    np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-13, err_msg=where)


def test_the_profile_is_refused_what_it_lacks(xp: Profile) -> None:
    """The judge itself can fail: what is outside of the profile raises."""
    with pytest.raises(AssertionError, match="not in the reference profile"):
        _ = xp.einsum
    with pytest.raises(AssertionError, match="integers"):
        xp.matmul(strict.asarray([[1]]), strict.asarray([[1]]))
    with pytest.raises(AssertionError, match="assign"):
        strict.asarray([1.0])[0] = 2.0
    with pytest.raises(RuntimeError):
        _ = strict.asarray([1.0, 2.0])[strict.asarray([True, False])]
