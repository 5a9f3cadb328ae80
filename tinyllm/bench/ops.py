"""`tinyllm bench ops`: every op at decode and prefill shapes, on every backend; first whether it is right, then how
fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from tinyllm.bench.buffers import cache_bytes, cold_times, plan, spare_memory
from tinyllm.bench.guarded import guarded_times
from tinyllm.bench.limits import Gauge, Limits, highest, timed
from tinyllm.bench.op_result import OpReport, OpResult, Status, placed, speed
from tinyllm.conformance.example import Example, arrays_in, copied, make_example
from tinyllm.conformance.judge import judge
from tinyllm.conformance.subject import to_numpy
from tinyllm.errors import TinyllmError, UnsupportedError
from tinyllm.plugins.backend import Backend
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.choice import Choice
from tinyllm.registry.registry import Registry
from tinyllm.spec.cases import Case
from tinyllm.spec.op_spec import OpSpec

DTYPE = "float32"
LEAST = 0.002
"""Seconds that a round takes at least: calls that are shorter are repeated."""


def bench_cases(spec: OpSpec) -> list[Case]:
    """The cases that are timed."""
    return [case for case in spec.cases if case.tier == "bench"]


def moved_bytes(example: Example, outputs: tuple[Any, ...]) -> int:
    """Bytes a call must move: as the spec says, otherwise each input read once and each output written once."""
    if example.spec.bytes is not None:
        return int(example.spec.bytes(example.call))
    return held_bytes(example) + sum(int(output.nbytes) for output in outputs)


def held_bytes(example: Example) -> int:
    """Bytes of the inputs."""
    return sum(int(value.nbytes) for value in example.inputs.values())


@dataclass
class Trial:
    """An example on what a bound program would run it by."""

    registry: Registry
    backend: Backend
    example: Example

    @cached_property
    def choice(self) -> Choice:
        """The kernel for it. Raises `UnsupportedError` where there is none."""
        call = replace(self.example.call, device=self.backend.device, weights_packed=True)
        return self.registry.choose(call, self.backend)

    @cached_property
    def bound(self) -> BoundKernel:
        """The kernel, made ready for the example's call."""
        return self.registry.bind(self.choice)

    def packed(self) -> dict[str, Any]:
        """A copy of the inputs, made ready: native arrays, weights packed, indices where the kernel wants them."""
        return self.bound.ready({name: copied(value) for name, value in self.example.inputs.items()})

    def call(self, inputs: dict[str, Any]) -> Callable[[], Any]:
        """A call, synchronised. What the op consumes is replaced by what it gives, and held nowhere else."""
        function, backend, spec = self.bound.function, self.backend, self.example.spec
        consumes, outputs = spec.consumes, [output.name for output in spec.outputs]
        keyword, names = self.example.keyword(inputs), [i.name for i in spec.positional]

        def once() -> Any:
            arguments = [inputs[n] for n in names]
            for name in consumes:
                del inputs[name]
            result = function(*arguments, **keyword)
            del arguments
            if consumes:
                made = dict(zip(outputs, result, strict=True))
                inputs.update({name: made[name] for name in consumes})
            backend.synchronize(*arrays_in(result))
            return result

        return once


@dataclass(frozen=True)
class Subjects:
    """What is measured. cases: of an op. dtype: of its floats. guarded: a backend each of whose timed calls is judged
    (`guarded.py`)."""

    cases: Callable[[OpSpec], list[Case]] = bench_cases
    dtype: str = DTYPE
    guarded: str = ""


def bench_ops(
    registry: Registry,
    backends: Iterable[str],
    ops: Iterable[str],
    rounds: int,
    on_step: Callable[[str], None],
    subjects: Subjects | None = None,
) -> OpReport:
    """Judge and time each op, one backend after the other: thread pools of two libraries would wait for one another's
    cores."""
    subjects = subjects or Subjects()
    specs = [registry.spec(op) for op in ops]
    cases = [(spec, case) for spec in specs for case in subjects.cases(spec)]
    notes = [f"{spec.name} has no bench case" for spec in specs if not subjects.cases(spec)]
    results: list[OpResult] = []
    limits: dict[str, Limits] = {}
    devices: dict[str, list[Limits]] = {}
    for name in backends:
        backend = registry.backend(name)
        cache = cache_bytes(backend.device)
        with backend.step_context(), np.errstate(all="ignore"):
            judged = []
            for spec, case in cases:  # before the limits are measured, so that first calls are first calls
                on_step(f"{name}: judging {spec.name} {case.id}")
                result = OpResult(spec.name, case.id, name, backend.device)
                judged.append(_guarded(result, partial(_judged, registry, backend, spec, case, subjects.dtype)))
            on_step(f"{name}: measuring the machine's limits")
            gauge = _gauge(registry, backend, cache)
            sweep = gauge.sweep if isinstance(gauge, Gauge) else _numpy_sweep(cache)
            for (spec, case), result in zip(cases, judged, strict=True):
                on_step(f"{name}: timing {spec.name} {case.id}")
                example = partial(make_example, spec, case, subjects.dtype)
                guarded = subjects.guarded == name
                time_it = (
                    partial(_timed_under_guard, registry, backend, example, sweep, rounds)
                    if guarded
                    else partial(_timed, registry, backend, example, sweep, cache, rounds)
                )
                results.append(_guarded(result, time_it) if result.status is Status.TIMED else result)
            if isinstance(gauge, Gauge):
                limits[name] = gauge.measure()
                devices.setdefault(backend.device, []).append(limits[name])
            else:
                notes.append(f"{name}: its limits could not be measured: {gauge}")
    notes += _add_others(registry, limits, devices, on_step)
    roofs = {device: highest(found) for device, found in devices.items()}
    return OpReport(placed(results, roofs), limits, roofs, tuple(notes))


def _add_others(
    registry: Registry, measured: Iterable[str], devices: dict[str, list[Limits]], on_step: Callable[[str], None]
) -> list[str]:
    """Add the limits that the other available backends reach on these devices: a roof is the machine's, whichever
    backends are compared. Returns why some are left out."""
    notes, known = [], {registry.backend(name).name for name in measured}
    for name in registry.plugins.backends:
        if name in known or not registry.probe(name).available:
            continue
        on_step(f"{name}: measuring the machine's limits")
        try:
            backend = registry.backend(name)
        except TinyllmError as error:
            notes.append(f"{name}: left out of the roof: {error}")
            continue
        if backend.device in devices:
            with backend.step_context():
                gauge = _gauge(registry, backend, cache_bytes(backend.device))
            if isinstance(gauge, Gauge):
                devices[backend.device].append(gauge.best)
            else:
                notes.append(f"{name}: left out of the roof: {gauge}")
    return notes


def _gauge(registry: Registry, backend: Backend, cache: int) -> Gauge | str:
    """What measures the limits, once used, or the reason why they cannot be measured: the ops are timed all the
    same."""
    try:
        gauge = Gauge(backend, partial(product, registry, backend), cache)
        gauge.measure()
    except Exception as error:  # noqa: BLE001  a plugin's kernel may raise anything
        return str(error) or type(error).__name__
    return gauge


def _guarded(result: OpResult, step: Callable[[OpResult], OpResult]) -> OpResult:
    """The next step of a result, or the reason why there is none: one that fails does not stop the others."""
    try:
        return step(result)
    except UnsupportedError as error:
        return replace(result, status=Status.UNSUPPORTED, reason=str(error))
    except Exception as error:  # noqa: BLE001  a plugin's kernel may raise anything
        return replace(result, status=Status.FAILED, reason=f"{type(error).__name__}: {error}")


def _judged(registry: Registry, backend: Backend, spec: OpSpec, case: Case, dtype: str, result: OpResult) -> OpResult:
    """The first call, held against the reference."""
    trial = Trial(registry, backend, make_example(spec, case, dtype))
    choice = trial.choice
    start = time.perf_counter()
    inputs = trial.packed()
    packed = time.perf_counter()
    given = trial.call(inputs)()
    called = time.perf_counter()
    outputs = tuple(to_numpy(backend, o) for o in (given if isinstance(given, tuple) else (given,)))
    message = judge(trial.example, outputs, exact=choice.kernel is None or choice.kernel.exact).message
    if message:
        return replace(result, kernel=choice.id, status=Status.WRONG, reason=message)
    moved, computed = moved_bytes(trial.example, outputs), int(spec.flops(trial.example.call))
    return replace(
        result, kernel=choice.id, bytes=moved, flops=computed, prepare=packed - start, first_call=called - packed
    )


def _timed(
    registry: Registry,
    backend: Backend,
    example: Callable[[], Example],
    sweep: Callable[[], None],
    cache: int,
    rounds: int,
    result: OpResult,
) -> OpResult:
    trial = Trial(registry, backend, example())
    held = held_bytes(trial.example)
    chosen = plan(held, result.bytes or held, cache, spare_memory())
    calls = [trial.call(trial.packed()) for _ in range(chosen.copies)]
    hot = timed(calls[0], rounds, LEAST)
    cold = cold_times(calls, chosen, sweep, rounds, LEAST)
    return replace(
        result,
        cold=speed(cold, result.bytes, result.flops),
        hot=speed(hot, result.bytes, result.flops),
        cold_by=chosen.by,
        copies=chosen.copies,
    )


def _timed_under_guard(
    registry: Registry,
    backend: Backend,
    example: Callable[..., Example],
    sweep: Callable[[], None],
    rounds: int,
    result: OpResult,
) -> OpResult:
    """Each timed call on numbers of its own, and judged."""
    first = Trial(registry, backend, example())
    kernel = first.choice.kernel

    def prepare(one: Example) -> tuple[dict[str, Any], Callable[[], Any]]:
        trial = Trial(registry, backend, one)
        inputs = trial.packed()
        return dict(inputs), trial.call(inputs)

    def numbers(seed: int) -> Example:
        return example(seed=seed)

    found = guarded_times(backend, numbers, prepare, sweep, rounds, kernel is None or kernel.exact)
    if found.message:
        return replace(result, status=Status.WRONG, reason=found.message)
    held = held_bytes(first.example)
    return replace(
        result,
        cold=speed(found.cold, result.bytes, result.flops),
        hot=speed(found.hot, result.bytes, result.flops),
        cold_by="sweep",
        copies=1,
        guarded=True,
        read=min(held, result.bytes or held),
    )


def product(registry: Registry, backend: Backend, x: Any, weight: Any) -> Callable[[], Any]:
    """A call of the backend's `linear` in float32."""
    example = Example(registry.spec("linear"), "limits", DTYPE, {"x": x, "weight": weight}, {})
    trial = Trial(registry, backend, example)
    return trial.call(trial.packed())


def _numpy_sweep(cache: int) -> Callable[[], None]:
    """What fills the caches where a backend has no product to do it with."""
    scratch: list[Any] = []

    def sweep() -> None:
        if not scratch:
            scratch.append(np.ones(2 * cache // 4, np.float32))
        scratch[0] += 1

    return sweep
