"""Wrong calls give the spec's error on every backend, for numpy and native arrays, before any kernel runs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.ops.harness import backends, draw, registry, to_native
from tinyllm.backend import Backend
from tinyllm.errors import InvalidInputError, TinyllmError
from tinyllm.ops import make_ops
from tinyllm.registry import Registry
from tinyllm.spec import BadInput, OpSpec

WRONG = [pytest.param(spec, bad, id=f"{spec.name}-{bad.id}") for spec in registry().specs.values() for bad in spec.bad_inputs]


class NoRuns(Registry):
    """A registry whose kernels fail: a wrong call must not come so far."""

    def function(self, choice: Any) -> Any:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise AssertionError(f"a wrong call of {choice.op} was run")

        return fail


@pytest.fixture(scope="module")
def ops() -> dict[str, Any]:
    return dict(make_ops(NoRuns(registry().plugins, registry().settings)))


def _call(op: Any, spec: OpSpec, inputs: dict[str, Any], attributes: dict[str, Any], backend: str) -> None:
    """By position as far as the spec's order is kept, all else by name."""
    args = []
    for given in spec.positional:
        if given.name not in inputs:
            break
        args.append(inputs.pop(given.name))
    op(*args, **inputs, **attributes, backend=backend)


@pytest.mark.parametrize("native", [False, True], ids=["numpy", "native"])
@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize(("spec", "bad"), WRONG)
def test_wrong_call(spec: OpSpec, bad: BadInput, name: str, native: bool, ops: dict[str, Any]) -> None:
    """Exactly the error's class, and its words; the message names the op."""
    inputs = draw(spec, bad.id, bad.inputs, "float32")
    if native:
        host = {i.name for i in spec.inputs if i.host}
        inputs = {n: v if n in host else to_native(registry().backend(name), v) for n, v in inputs.items()}
    with pytest.raises(TinyllmError, match=re.escape(bad.match)) as caught:
        _call(ops[spec.name], spec, inputs, dict(bad.attributes), name)
    assert type(caught.value) is bad.error
    assert spec.name in str(caught.value)


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
