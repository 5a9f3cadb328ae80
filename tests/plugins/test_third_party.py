"""Two plugins that nobody here wrote: a whole backend, and one fast kernel for backends of others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.catalogue.harness import available, cases_of, example, registry
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.example import draw_inputs
from tinyllm.conformance.judge import judge
from tinyllm.conformance.result import Outcome
from tinyllm.conformance.run import run
from tinyllm.conformance.subject import Subject
from tinyllm.ops import make_ops
from tinyllm.plugins.backend import Backend
from tinyllm.registry.registry import Registry
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call, quant_type

Install = Callable[..., Registry]
QUICK_ON = [
    pytest.param(b, marks=pytest.mark.skipif(not available(b), reason=f"{b} is not here")) for b in ("numpy", "torch")
]


def test_packages_are_found_by_their_entry_points(install: Install) -> None:
    """Installed they are there, with nothing else broken; before, they are not."""
    before = registry()
    assert "strict" not in before.plugins.backends
    after = install("strict_backend", "quick_linear")
    assert after.plugins.broken == before.plugins.broken
    assert set(after.plugins.backends) == {*before.plugins.backends, "strict"}
    assert {k.id for k in after.plugins.kernels} - {k.id for k in before.plugins.kernels} == {
        "strict/softmax:own",
        "numpy/quantized_linear:quick",
        "torch/quantized_linear:quick",
    }


def test_a_backend_is_complete_on_its_first_day(install: Install) -> None:
    """It holds: every op by its own kernel or else by the reference on its own arrays, and what it lacks it refuses."""
    asked, plan = install("strict_backend"), Plan("strict")
    results = list(run(asked, plan, collect(asked, plan)))
    assert [r for r in results if r.outcome not in (Outcome.PASS, Outcome.UNSUPPORTED)] == []
    passed = {r.op: r.how for r in results if r.outcome is Outcome.PASS and not r.aspect and r.kernel}
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


def _inputs(bits: int = 4) -> dict[str, Any]:
    spec = registry().spec("quantized_linear")
    case = next(
        c for c in cases_of(spec, "full", "smoke") if c.inputs["weight"].make(np.random.default_rng(0)).bits == bits
    )
    return draw_inputs(spec, case.id, case.inputs, "float32")


def _choice(asked: Registry, backend: Backend, inputs: dict[str, Any]) -> Any:
    types = {"x": ArrayType(inputs["x"].shape, str(inputs["x"].dtype)), "weight": quant_type(inputs["weight"])}
    return asked.choose(check_call(asked.spec("quantized_linear"), types, {}, backend.device), backend)


@pytest.mark.parametrize("name", QUICK_ON)
def test_a_kernel_for_somebody_elses_backend_is_chosen(name: str, install: Install) -> None:
    """By its priority where it supports the call, by no means elsewhere; a pin goes back to the backend's own."""
    asked = install("quick_linear")
    backend = asked.backend(name)
    assert _choice(asked, backend, _inputs(4)).kernel.name == "quick"
    assert _choice(asked, backend, _inputs(8)).kernel.name != "quick"
    narrow = _inputs(4)
    narrow["x"] = narrow["x"].astype(np.float16)
    assert _choice(asked, backend, narrow).kernel.name != "quick"
    own = _choice(registry(), backend, _inputs(4)).kernel
    pinned = install(TINYLLM_KERNELS=f"{name}/quantized_linear={own.name}")
    assert _choice(pinned, pinned.backend(name), _inputs(4)).kernel.name == own.name != "quick"


@pytest.mark.parametrize("name", QUICK_ON)
def test_a_kernel_for_somebody_elses_backend_is_right(name: str, install: Install) -> None:
    """On every case that it takes, within the bound of any other kernel."""
    asked = install("quick_linear")
    backend = asked.backend(name)
    taken = 0
    for case in cases_of(asked.spec("quantized_linear")):
        tested = example("quantized_linear", case.id, "float32")
        kernel = asked.choose(tested.call, backend).kernel
        if kernel is not None and kernel.name == "quick":
            verdict = judge(tested, Subject(asked, backend, tested.spec, kernel)(tested))
            assert not verdict.message, f"{name} [{case.id}]: {verdict.message}"
            taken += 1
    assert taken >= 3


@pytest.mark.parametrize("name", QUICK_ON)
def test_a_kernel_with_its_own_layout_in_op_calls(name: str, install: Install) -> None:
    """`prepare` runs on the way, without uses since nothing is kept, and what it packs is what the kernel gets."""
    asked = install("quick_linear")
    inputs = _inputs(4)
    kernel = next(k for k in asked.kernels(name, "quantized_linear") if k.name == "quick")
    made: list[Any] = []
    prepare = kernel.prepare_function()
    assert prepare is not None

    def told(weight: Any, uses: tuple[str, ...]) -> Any:
        made.append(prepare(weight, uses))
        return made[-1]

    object.__setattr__(kernel, "prepare", told)
    y = make_ops(asked)["quantized_linear"](inputs["x"], inputs["weight"], backend=name)
    plain = make_ops(registry())["quantized_linear"](inputs["x"], inputs["weight"], backend="numpy")
    np.testing.assert_allclose(y, plain, rtol=1e-4, atol=1e-4)
    assert [p.uses for p in made] == [()]
    assert made[0].codes.shape[2] == inputs["weight"].shape[0]
