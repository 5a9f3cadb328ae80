"""Our backends hold to every spec: all checks of the kit, an op of a backend at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.catalogue.harness import backends, registry
from tinyllm.conformance.checks.arrays import OP as ARRAYS
from tinyllm.conformance.checks.check import Plan
from tinyllm.conformance.collect import collect
from tinyllm.conformance.pytest_plugin import PROPERTY
from tinyllm.conformance.result import BAD
from tinyllm.conformance.run import run


@pytest.mark.parametrize("op", [ARRAYS, *registry().specs])
@pytest.mark.parametrize("backend", backends())
def test_an_op_of_a_backend_holds(backend: str, op: str, record_property: Callable[[str, object], None]) -> None:
    """A test for each of the hundred thousand checks would cost more in pytest than in kernels."""
    plan = Plan(backend, ("full",), ops=(op,))
    results = list(run(registry(), plan, collect(registry(), plan)))
    for result in results:
        record_property(PROPERTY, result.to_json())
    failed = [f"{r.id}: {r.outcome}: {r.message}\n{r.snippet}" for r in results if r.outcome in BAD]
    assert results, f"no check of {op} on {backend}"
    assert not failed, f"{len(failed)} of {len(results)} checks fail:\n" + "\n".join(failed)
