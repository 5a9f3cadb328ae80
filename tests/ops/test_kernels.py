"""Every kernel of every backend against the float64 reference, on every case and dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.ops.compare import wrong
from tests.ops.harness import (
    Example,
    backends,
    bound,
    cases_of,
    dtypes_of,
    example,
    implementations,
    registry,
    run,
    to_numpy,
)
from tinyllm.backend import Backend
from tinyllm.quant_weight import QuantWeight

SPECS = list(registry().specs.values())


def _everything() -> Iterator[Any]:
    """(op, case, dtype, backend, kernel), neighbours sharing a reference."""
    for spec in SPECS:
        for case in cases_of(spec):
            for dtype in dtypes_of(spec):
                for backend in backends():
                    for kernel, _ in implementations(backend, spec.name):
                        test_id = f"{backend}/{spec.name}:{kernel}-{dtype}-{case.id}"
                        yield pytest.param(spec.name, case.id, dtype, backend, kernel, id=test_id)


def _bytes(value: Any) -> list[bytes]:
    if isinstance(value, QuantWeight):
        return [np.asarray(a).tobytes() for a in value.arrays.values()]
    return [np.ascontiguousarray(value).tobytes()]


def _changed(tested: Example, backend: Backend, natives: dict[str, Any]) -> list[str]:
    """Inputs that are no longer what they were, byte for byte; those that the op consumes may be anything."""
    kept = [name for name in natives if name not in tested.spec.consumes]
    return [name for name in kept if _bytes(to_numpy(backend, natives[name])) != _bytes(tested.inputs[name])]


@pytest.mark.parametrize(("op", "case", "dtype", "backend_name", "kernel_name"), list(_everything()))
def test_kernel(op: str, case: str, dtype: str, backend_name: str, kernel_name: str, request: pytest.FixtureRequest) -> None:
    """Outputs within the spec's tolerance, of the spec's shape and dtype; inputs as they were."""
    backend = registry().backend(backend_name)
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend_name} has no {dtype}")
    tested = example(op, case, dtype)
    kernel = dict(implementations(backend_name, op))[kernel_name]
    answer = kernel.supports(bound(tested.call, backend)) if kernel and kernel.supports else True
    if answer is not True:
        pytest.skip(f"{backend_name}/{op}:{kernel_name} declines: {answer}")
    natives = tested.native(backend)
    outputs = run(tested, backend, kernel, natives)
    message = wrong(tested, outputs, exact=kernel is None or kernel.exact)
    rerun = f"\n  rerun: pytest '{request.node.nodeid}'"
    assert not message, f"{backend_name}/{op}:{kernel_name} {dtype} [{case}]: {message}{rerun}"
    changed = _changed(tested, backend, natives)
    assert not changed, f"{backend_name}/{op}:{kernel_name} {dtype} [{case}]: overwrote {', '.join(changed)}{rerun}"


@pytest.mark.parametrize("backend_name", [b for b in backends() if b != "numpy"])
@pytest.mark.parametrize("op", [s.name for s in SPECS])
def test_own_kernel(op: str, backend_name: str) -> None:
    """torch and mlx have a kernel of their own for every op, so that independent implementations judge one another."""
    assert registry().kernels(backend_name, op), f"{backend_name} would run {op} by its reference"


@pytest.mark.parametrize("backend_name", backends())
@pytest.mark.parametrize("op", [s.name for s in SPECS])
def test_every_case_runs(op: str, backend_name: str) -> None:
    """Whatever kernels decline, some kernel of each backend takes every case in float32, bound or not; choosing raises otherwise."""
    backend = registry().backend(backend_name)
    spec = registry().spec(op)
    for case in cases_of(spec, "smoke", "full", "model"):
        call = bound(example(op, case.id, "float32").call, backend)
        for asked in (call, replace(call, bound=False)):
            choice = registry().choose(asked, backend)
            assert choice.backend is backend and (choice.kernel is None or choice.kernel.exact)


@pytest.mark.parametrize("op", [s.name for s in SPECS])
def test_cases_have_names_of_their_own(op: str) -> None:
    """A case is found by its id alone; every op has smoke cases, and a decode or prefill case to time."""
    spec = registry().spec(op)
    ids = [case.id for case in spec.cases]
    assert len(set(ids)) == len(ids)
    assert {"smoke", "bench"} <= {case.tier for case in spec.cases}


def test_no_plugin_is_broken() -> None:
    """A backend that fails to load must not look like one that has nothing to test."""
    assert registry().plugins.broken == {}
