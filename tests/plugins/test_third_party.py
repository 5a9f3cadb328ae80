"""Plugins that nobody here wrote: a whole backend, fast kernels for backends of others, a kernel that knows only some
arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import available, backends, cases_of, registry
from tests.plugins.test_models import spied_prepare
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.cli.main import main
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.example import Example, make_example
from tinyllm.conformance.judge import judge
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import run
from tinyllm.conformance.subject import Subject
from tinyllm.ops import make_ops
from tinyllm.plugins.backend import Backend
from tinyllm.registry.registry import Registry
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call

Install = Callable[..., Registry]
QUICK_ON = [
    pytest.param(b, marks=pytest.mark.skipif(not available(b), reason=f"{b} is not here")) for b in ("numpy", "torch")
]
OWN_WAYS = ("own", "composed", "reference")
"""Kernels of the strict backend, and what runs where it has none."""


def test_packages_are_found_by_their_entry_points(install: Install) -> None:
    """Installed they are there, with nothing else broken; before, they are not."""
    before = registry()
    assert "strict" not in before.plugins.backends and "ternary" not in before.plugins.schemes
    after = install("strict_backend", "quick_linear", "ternary", "ternary_kernel", "partial_sdpa")
    assert after.plugins.broken == before.plugins.broken
    assert set(after.plugins.backends) == {*before.plugins.backends, "strict"}
    assert set(after.plugins.schemes) == {*before.plugins.schemes, "ternary"}
    assert {k.id for k in after.plugins.kernels} - {k.id for k in before.plugins.kernels} == {
        "strict/softmax:own",
        "numpy/linear:quick",
        "torch/linear:quick",
        "numpy/linear:signs",
        "*/sdpa:partial",
    }


def test_a_backend_is_complete_on_its_first_day(install: Install) -> None:
    """It holds: every op by its own kernel or else by the reference on its own arrays, and what it lacks it refuses."""
    asked, plan = install("strict_backend"), Plan("strict")
    results = list(run(asked, plan, collect(asked, plan)))
    assert [r for r in results if r.outcome not in (Outcome.PASS, Outcome.UNSUPPORTED)] == []
    passed = {r.op: r.how for r in results if r.outcome is Outcome.PASS and not r.aspect and r.kernel in OWN_WAYS}
    assert passed == {
        op: "delegation to numpy" if op == "softmax" else "reference" for op in asked.specs
    }  # its arrays are numpy's inside


def test_a_backend_in_op_calls(install: Install) -> None:
    """Selected for numpy arrays, and found by its own arrays."""
    asked = install("strict_backend")
    ops = make_ops(asked)
    x = np.array([[1.0, 2.0, 4.0]], np.float32)
    expected = np.exp(x) / np.exp(x).sum()
    np.testing.assert_allclose(ops["softmax"](x, backend="strict"), expected, rtol=1e-6)
    native = asked.backend("strict").from_numpy(x)
    y = ops["softmax"](native)
    assert type(y) is type(native)
    y = ops["add"](native, x)
    assert type(y) is type(native)
    np.testing.assert_array_equal(np.asarray(y), 2 * x)


def _examples() -> Iterator[Example]:
    """The cases of `linear` with affine weights, in float32."""
    spec = registry().spec("linear")
    for case in spec.cases_of(Affine()):
        if case.tier in ("smoke", "full"):
            yield make_example(spec, case, "float32")


def _inputs(bits: int = 4) -> dict[str, Any]:
    return next(e.inputs for e in _examples() if e.inputs["weight"].scheme.bits == bits)


def _choice(asked: Registry, backend: Backend, inputs: dict[str, Any]) -> Any:
    types = {"x": ArrayType(inputs["x"].shape, str(inputs["x"].dtype)), "weight": inputs["weight"].type}
    return asked.choose(check_call(asked.spec("linear"), types, {}, backend.device), backend)


@pytest.mark.parametrize("name", QUICK_ON)
def test_a_kernel_for_somebody_elses_backend_is_chosen(name: str, install: Install) -> None:
    """By its priority where it supports the call, by no means elsewhere; a pin goes back to the backend's own."""
    asked = install("quick_linear")
    backend = asked.backend(name)
    assert _choice(asked, backend, _inputs(4)).kernel.name == "quick"
    assert _choice(asked, backend, _inputs(8)).kernel.name != "quick"
    narrow = {**_inputs(4)}
    narrow["x"] = narrow["x"].astype(np.float16)
    assert _choice(asked, backend, narrow).kernel.name != "quick"
    own = _choice(registry(), backend, _inputs(4)).kernel
    pinned = install(TINYLLM_KERNELS=f"{name}/linear={own.name}")
    assert _choice(pinned, pinned.backend(name), _inputs(4)).kernel.name == own.name != "quick"


@pytest.mark.parametrize("name", QUICK_ON)
def test_a_kernel_for_somebody_elses_backend_is_right(name: str, install: Install) -> None:
    """On every case that it takes, within the bound of any other kernel."""
    asked = install("quick_linear")
    backend = asked.backend(name)
    taken = 0
    for tested in _examples():
        kernel = asked.choose(tested.call, backend).kernel
        if kernel is not None and kernel.name == "quick":
            verdict = judge(tested, Subject(asked, backend, tested.spec, kernel)(tested))
            assert not verdict.message, f"{name} [{tested.case}]: {verdict.message}"
            taken += 1
    assert taken >= 3


@pytest.mark.parametrize("name", QUICK_ON)
def test_a_kernel_with_its_own_layout_in_op_calls(name: str, install: Install) -> None:
    """`prepare` runs on the way, told that nothing is kept, and what it packs is what the kernel gets."""
    asked = install("quick_linear")
    inputs = _inputs(4)
    kernel = next(k for k in asked.kernels(name, "linear") if k.name == "quick")
    made = spied_prepare(kernel)
    y = make_ops(asked)["linear"](inputs["x"], inputs["weight"], backend=name)
    plain = make_ops(registry())["linear"](inputs["x"], inputs["weight"], backend="numpy")
    np.testing.assert_allclose(y, plain, rtol=1e-4, atol=1e-4)
    ((weight, call),) = made
    assert not call.weights_packed
    assert weight["codes"].shape[2] == inputs["weight"].shape[0]


@pytest.mark.parametrize("name", backends())
def test_a_kernel_that_knows_some_arguments_is_taken_as_it_is(name: str, install: Install) -> None:
    """It runs the calls that give no other argument, and is right on every one; others are passed over to what the
    backend has, each with the arguments that it does not take."""
    asked = install("partial_sdpa")
    backend, spec = asked.backend(name), asked.spec("sdpa")
    assert not asked.plugins.broken
    taken = 0
    for case in cases_of(spec):
        tested = make_example(spec, case, "float32")
        choice = asked.choose(tested.call, backend)
        (partial,) = (c for c in choice.candidates if c.kernel.name == "partial")
        more = [n for n in (*tested.inputs, *case.attributes) if n not in ("q", "k", "v", "causal", "scale")]
        assert bool(partial.reason) == bool(more) and all(f"no {argument}" in partial.reason for argument in more)
        if not more:
            assert choice.kernel is partial.kernel
            verdict = judge(tested, Subject(asked, backend, spec, choice.kernel)(tested))
            assert not verdict.message, f"{name} [{case.id}]: {verdict.message}"
            taken += 1
    assert taken >= 5


@pytest.mark.parametrize("name", backends())
def test_which_says_why_a_partial_kernel_was_passed_over(
    name: str, install: Install, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = install("partial_sdpa")
    monkeypatch.setattr("tinyllm.registry.registry.default_registry", lambda: asked)
    cases = {"softcap" in case.attributes: case.id for case in asked.spec("sdpa").cases if len(case.inputs) == 3}

    def which(case: str) -> dict[str, str]:
        assert main(["which", "sdpa", "-b", name, "--case", case, "--json"]) == 0
        return {row["kernel"]: row["single_call"] for row in json.loads(capfd.readouterr().out)["kernels"]}

    assert which(cases[True])["*/sdpa:partial"] == "takes no softcap"
    assert main(["which", "sdpa", "-b", name, "--case", cases[True]]) == 0
    assert "takes no softcap" in capfd.readouterr().out
    assert which("L3,S5,D4")["*/sdpa:partial"] == "runs"
