"""Who does the work: a kernel itself, the op's own formula, or another library that it hands the work to.

Three ways of looking: which modules the function's code names; which Python frames and C functions run; how much memory
numpy allocates meanwhile (libraries keep their arrays elsewhere), since a kernel that computes in numpy needs room for
its result there.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from math import prod
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from tinyllm.conformance.checks.check import Trial
from tinyllm.conformance.example import arrays_in
from tinyllm.conformance.subject import Subject
from tinyllm.registry.registry import Registry
from tinyllm.spec.cases import Case
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.types import Call
from tinyllm.spec.validation import output_types

LARGE = 1 << 17
"""Bytes of output below which allocations say nothing."""
MOST = 1 << 21
"""Numbers of input past which looking takes too long."""


class Watch:
    """Sees who computes while a kernel runs: `with watch: ...`, then `watch.found`."""

    def __init__(self, registry: Registry, subject: Subject) -> None:
        self._codes = {
            spec.reference.__code__ for spec in registry.specs.values() if isinstance(spec.reference, FunctionType)
        }
        self._foreign = _foreign_roots(registry, subject)
        self._seen: set[str] = set()
        self._by_reference = False

    def __enter__(self) -> Watch:
        self._before = sys.getprofile()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)

    def _event(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            self._by_reference = self._by_reference or frame.f_code in self._codes
            self._seen.add(str(frame.f_globals.get("__name__", "")).partition(".")[0])
        elif event == "c_call":
            self._seen.add(_root(argument))

    @property
    def found(self) -> str:
        """`kernel`, `reference`, or `delegation to NAME`, as far as was seen."""
        others = self._seen & self._foreign
        return "reference" if self._by_reference else f"delegation to {min(others)}" if others else "kernel"


def origin(trial: Trial, subject: Subject, dtype: str) -> str:
    """What the kernel's code names, and what numpy allocates on a large case. What runs is seen by a `Watch` at each
    case."""
    if subject.by == "reference":
        return "reference"
    if subject.by == "composed":
        return _by_parts(trial, subject, dtype)
    named = _named(subject.function, _own_roots(trial.registry, subject.backend.name)) & _foreign_roots(
        trial.registry, subject
    )
    case = _telling_case(trial, subject, dtype)
    if not named and case is not None and _numpy_computes(subject, trial, case, dtype):
        named = {"numpy"}
    return f"delegation to {min(named)}" if named else "kernel"


def _by_parts(trial: Trial, subject: Subject, dtype: str) -> str:
    """Who computes the ops that an op is composed of, as seen on a large case."""
    watch, case = Watch(trial.registry, subject), _telling_case(trial, subject, dtype)
    if case is not None:
        with watch:
            subject(trial.example(case, dtype))
    return watch.found


def _telling_case(trial: Trial, subject: Subject, dtype: str) -> Case | None:
    """Of the cases that the kernel takes, the one with the largest outputs within reason."""
    cases = [c for c in trial.spec.cases if sum(prod(d.shape) for d in c.inputs.values()) < MOST]
    taken = [c for c in cases if not subject.declines(trial.call(c, dtype))]
    return max(taken, key=lambda c: _output_bytes(trial.spec, trial.example(c, dtype).call), default=None)


def _output_bytes(spec: OpSpec, call: Call) -> int:
    return sum(
        prod(map(int, t.shape)) * (4 if t.dtype == "quant" else numpy_dtype(t.dtype).itemsize)
        for t in output_types(spec, call)
    )


def _own_roots(registry: Registry, backend: str) -> set[str]:
    """Top-level packages of a backend's kernels and array library."""
    loads = [kernel.load for kernel in registry.plugins.kernels if kernel.backend == backend]
    modules = [load if isinstance(load, str) else str(getattr(load, "__module__", "")) for load in loads]
    names = (*registry.plugins.backends[backend].array_types, *modules)
    return {name.partition(":")[0].partition(".")[0] for name in names}


def _foreign_roots(registry: Registry, subject: Subject) -> set[str]:
    """Packages of the other backends, and what they compute with."""
    own = _own_roots(registry, subject.backend.name)
    return {
        r for other in registry.plugins.backends if other != subject.backend.name for r in _own_roots(registry, other)
    } - own


def _named(function: Callable[..., Any], own: set[str]) -> set[str]:
    """Top-level packages that a function's code names, and the functions of its own package that it calls."""
    roots: set[str] = set()
    queue, seen = [function], set()
    while queue:
        current = queue.pop()
        current = getattr(current, "__wrapped__", current)
        if not isinstance(current, FunctionType) or current.__code__ in seen:
            continue
        for code in _nested(current.__code__):
            seen.add(code)
            for name in code.co_names:
                value = current.__globals__.get(name)
                root = _module_root(value) or (name.partition(".")[0] if name in sys.modules else "")
                roots.add(root)
                if isinstance(value, FunctionType) and str(value.__module__).partition(".")[0] in own:
                    queue.append(value)
    return roots - {""}


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _module_root(value: Any) -> str:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return name.partition(".")[0] if isinstance(name, str) and callable(value) | isinstance(value, ModuleType) else ""


def _root(function: Any) -> str:
    """The package of a C function, or of the object whose method it is."""
    owner = getattr(function, "__self__", None)
    module = function.__module__ if owner is None or isinstance(owner, ModuleType) else type(owner).__module__
    return str(module or "").partition(".")[0]


def _numpy_computes(subject: Subject, trial: Trial, case: Case, dtype: str) -> bool:
    """Whether numpy allocates more than the outputs take, where the backend's arrays are not numpy's."""
    if isinstance(subject.backend.from_numpy(np.zeros(1, np.float32)), np.ndarray):
        return False
    example = trial.example(case, dtype)
    size = _output_bytes(trial.spec, example.call)
    if size < LARGE:
        return False
    natives = subject.native(example.inputs)
    subject.backend.synchronize(
        *arrays_in(subject.run(example, natives))
    )  # what is loaded at the first call is nobody's work
    natives = subject.native(example.inputs)
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        subject.backend.synchronize(*arrays_in(subject.run(example, natives)))
        return tracemalloc.get_traced_memory()[1] - start > size
    finally:
        tracemalloc.stop()
