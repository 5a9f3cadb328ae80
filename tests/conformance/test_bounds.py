"""Bounds are attainable: the references pass in every dtype, and so do plain loops that know no trick. And a backend is
what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import backends, registry
from tinyllm.catalogue.schemes.gguf import GGUF_SCHEMES
from tinyllm.catalogue.schemes.halves import HALVES
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.example import DTYPES, Example, dtypes_of, make_example
from tinyllm.conformance.judge import judge
from tinyllm.conformance.run import run
from tinyllm.registry.without_kernel import reference_function
from tinyllm.spec.cases import Case
from tinyllm.spec.op_spec import OpSpec

SPECS = list(registry().specs)


def cases_of(spec: OpSpec) -> tuple[Case, ...]:
    """Those that stand in the spec, and those that each scheme gets."""
    schemes = registry().plugins.schemes.values()
    return (*spec.all_cases, *(case for scheme in schemes for case in spec.cases_of(scheme)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", SPECS)
def test_the_reference_holds_in_every_dtype(op: str, dtype: str) -> None:
    """numpy at the test's own dtype (16 bits: float32, rounded once) is within the bounds on every case of the spec,
    and on a scheme's smoke cases: in its others numpy's kernels, which expand weights too, show that they are
    attainable.
    """
    spec = registry().spec(op)
    by_reference = reference_function(spec, registry().backend("numpy"))
    stated = {case.id for case in spec.all_cases}
    for case in cases_of(spec) if dtype in dtypes_of(spec) else ():
        if case.tier == "smoke" or (case.tier == "full" and case.id in stated):
            example = make_example(spec, case, dtype)
            with np.errstate(all="ignore"):
                result = by_reference(*example.positional(example.inputs), **example.keyword(example.inputs))
            message = judge(example, result if isinstance(result, tuple) else (result,)).message
            assert not message, f"{op}[{case.id}] {dtype}: {message}"


def _linear(x: Any, weight: Any, bias: Any) -> Any:
    """One number after the other, in the dtype of x."""
    out = np.zeros((*x.shape[:-1], weight.shape[0]), x.dtype)
    for index in np.ndindex(*out.shape):
        total = x.dtype.type(0)
        for a, b in zip(x[index[:-1]], weight[index[-1]], strict=True):
            total += a * b
        out[index] = total + (bias[index[-1]] if bias is not None else 0)
    return out


def _softmax(x: Any, axis: int) -> Any:
    def row(values: Any) -> Any:
        top, total = max(values.tolist()), x.dtype.type(0)
        weights = [x.dtype.type(math.exp(v - top)) for v in values.tolist()]
        for weight in weights:
            total += weight
        return np.array([w / total for w in weights], x.dtype)

    return np.apply_along_axis(row, axis, x) if x.size else x


def _rms_norm(x: Any, weight: Any, eps: float, offset: float) -> Any:
    out = np.empty_like(x)
    for index in np.ndindex(*x.shape[:-1]):
        total = x.dtype.type(0)
        for value in x[index]:
            total += value * value
        scale = x.dtype.type(1 / math.sqrt(float(total) / max(1, x.shape[-1]) + eps))
        out[index] = x[index] * scale * (weight + x.dtype.type(offset))
    return out


NAIVE: dict[str, Callable[[Example], Any]] = {
    "linear": lambda e: _linear(e.inputs["x"], e.inputs["weight"], e.inputs.get("bias")),
    "softmax": lambda e: _softmax(e.inputs["x"], e.attributes.get("axis", -1)),
    "rms_norm": lambda e: _rms_norm(e.inputs["x"], e.inputs["weight"], *map(e.call.attributes.get, ("eps", "offset"))),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", list(NAIVE))
def test_plain_loops_hold(op: str, dtype: str) -> None:
    """The bound asks for no cleverness: sums taken one number after the other, in the dtype itself, pass the smoke
    cases."""
    spec = registry().spec(op)
    for case in spec.cases:
        if case.tier == "smoke":
            example = make_example(spec, case, dtype)
            with np.errstate(all="ignore"):
                message = judge(example, (NAIVE[op](example),)).message
            assert not message, f"{op}[{case.id}] {dtype}: {message}"


@pytest.mark.parametrize("op", SPECS)
def test_cases_have_names_of_their_own(op: str) -> None:
    """A case is found by its id alone; every op has smoke, full and bench cases."""
    cases = cases_of(registry().spec(op))
    assert len({c.id for c in cases}) == len(cases)
    assert {"smoke", "full", "bench"} <= {c.tier for c in cases}
    assert not [c.id for c in cases if {"[", "]"} & {*c.id}]


def test_every_decision_is_shown() -> None:
    """Each numbered decision of the op semantics is a case or a bad input of some op. The last is about checkpoints,
    not ops."""
    shown = {c.decision for spec in registry().specs.values() for c in (*cases_of(spec), *spec.bad_inputs)}
    assert {*range(1, 21)} <= shown


@pytest.mark.parametrize("name", [b for b in backends() if b in ("torch", "mlx")])
@pytest.mark.parametrize("op", [op for op in SPECS if op != "all_reduce"])
def test_own_kernels(op: str, name: str) -> None:
    """torch and mlx compute every op themselves in every case: not by its reference, and not by handing it over. Only
    tables of GGUF's schemes, and weights whose codes are floats, are read by numpy's kernel for every CPU, and what
    is summed over processes goes through the memory of the host; kernels that take numpy arrays are others'."""
    plan = Plan(name, ops=(op,))
    checks = [c for c in collect(registry(), plan) if c.subject and not c.aspect]
    own = [c for c in checks if c.subject and not (c.subject.kernel and c.subject.kernel.arrays == "host")]
    left = {c.case for c in checks} - {c.case for c in own}
    theirs = {"embedding": GGUF_SCHEMES.values(), "dequantize": ("fp8/", "nf4/", *HALVES)}.get(op, ())
    assert all(any(f",{scheme}" in case for scheme in theirs) for case in left)
    seen = list(run(registry(), plan, own))
    assert seen
    assert {r.id: r.how for r in seen if r.how != "kernel"} == {}


def test_no_plugin_is_broken() -> None:
    """A backend that fails to load must not look like one that has nothing to test."""
    assert registry().plugins.broken == {}
