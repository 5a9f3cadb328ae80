"""`pytest tests/benchmarks --benchmark-only`: every op on every backend at the shapes of a small model, and what a call
of `ops` costs."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.catalogue.harness import backends, cases_of, chosen, example, registry, with_kernels
from tinyllm.conformance.example import Example, arrays_in
from tinyllm.ops import make_ops
from tinyllm.plugins.backend import Backend
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import output_types

MOST_OVERHEAD = 5e-6
"""Seconds that a call of `ops` may cost above a call of the kernel."""

BENCHES = [
    pytest.param(spec.name, case.id, backend, id=f"{spec.name}-{case.id}-{backend}")
    for backend in backends()  # one after the other: thread pools of two libraries wait for one another's cores
    for spec in registry().specs.values()
    for case in cases_of(spec, "bench")
]


def moved_bytes(tested: Example) -> int:
    """What the spec says, or inputs read once and outputs written once."""
    if tested.spec.bytes is not None:
        return tested.spec.bytes(tested.call)
    read = sum(value.nbytes for value in tested.inputs.values())
    types = [t for t in output_types(tested.spec, tested.call) if isinstance(t, ArrayType) and t.dtype != "quant"]
    return read + sum(int(prod(t.shape)) * numpy_dtype(t.dtype).itemsize for t in types)


def timed(tested: Example, backend: Backend) -> Callable[[], None]:
    """One call with packed inputs, synchronised. What an op consumes is replaced by what it gives, and held nowhere
    else."""
    subject = chosen(tested, backend)
    bound = subject.bind(tested.call)
    function, inputs = bound.function, bound.ready(subject.native(tested.inputs))
    keyword = tested.keyword(inputs)

    def once() -> None:
        arguments = tested.positional(inputs)
        for name in tested.spec.consumes:
            del inputs[name]
        result = function(*arguments, **keyword)
        del arguments
        if tested.spec.consumes:
            inputs.update(zip(tested.spec.consumes, result, strict=True))
        backend.synchronize(*arrays_in(result))

    return once


@pytest.mark.benchmark(max_time=0.25, min_rounds=5, warmup=True, warmup_iterations=3)
@pytest.mark.parametrize(("op", "case", "name"), BENCHES)
def test_op(op: str, case: str, name: str, benchmark: BenchmarkFixture) -> None:
    """The kernel that a program in float32 would get."""
    tested, backend = example(op, case, "float32"), registry().backend(name)
    benchmark.group = f"{op} {case}"
    benchmark(timed(tested, backend))
    benchmark.extra_info["kernel"] = chosen(tested, backend).id
    if benchmark.stats is not None:  # None under --benchmark-disable, which runs each once
        seconds = benchmark.stats.stats.median
        benchmark.extra_info["GB/s"] = round(moved_bytes(tested) / seconds / 1e9, 2)
        benchmark.extra_info["GFLOP/s"] = round(tested.spec.flops(tested.call) / seconds / 1e9, 2)


TINY = {"softmax": ([(2, 3)], {"axis": -1}), "sdpa": ([(2, 2, 4)] * 3, {"causal": True})}


@pytest.mark.parametrize("name", backends())
@pytest.mark.parametrize("op", list(TINY))
def test_dispatch(op: str, name: str, benchmark: BenchmarkFixture) -> None:
    """`ops` on native arrays of a known form, above the kernel itself. A kernel that does nothing leaves the dispatch
    alone."""
    shapes, attributes = TINY[op]
    arrays = [registry().backend(name).from_numpy(np.ones(shape, np.float32)) for shape in shapes]
    call = make_ops(with_kernels())[op]  # of a registry of its own, since its plan is changed
    call(*arrays, **attributes, backend=name)
    (plan,) = call._dispatch._plans.values()

    def nothing(*args: Any, **kwargs: Any) -> Any:
        return args[0]

    plan.run = lambda args, kwargs: nothing(*args, **kwargs)
    benchmark(call, *arrays, **attributes, backend=name)
    direct, whole = (
        min(timeit.repeat(f, number=2000, repeat=9)) / 2000
        for f in (lambda: nothing(*arrays, **attributes), lambda: call(*arrays, **attributes, backend=name))
    )
    benchmark.extra_info["overhead_us"] = round((whole - direct) * 1e6, 2)
    assert whole - direct < MOST_OVERHEAD, f"{op} on {name}: dispatch costs {(whole - direct) * 1e6:.1f} us"
