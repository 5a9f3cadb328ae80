"""`tinyllm bench ops`: every op at decode and prefill shapes, on every backend, against the machine's own limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from statistics import median
from typing import Any

import numpy as np

from tinyllm.backend import Backend
from tinyllm.bench.limits import Limits, measure_limits, timed
from tinyllm.errors import UnsupportedError
from tinyllm.quant_weight import QuantWeight
from tinyllm.registry import Choice, Registry
from tinyllm.spec import ArrayType, Call, Case, OpSpec
from tinyllm.validation import check_call, output_types, quant_type

SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint32": 4, "bool": 1}


@dataclass(frozen=True)
class OpTiming:
    """One op, case and backend. `seconds` median and spread; `limit` the share of the roof reached, whichever roof is nearer."""

    op: str
    case: str
    backend: str
    kernel: str
    seconds: float
    slowest: float
    gb_s: float
    gflop_s: float
    limit: float


def call_bytes(spec: OpSpec, call: Call, inputs: dict[str, Any]) -> int:
    """Bytes a call must move: as the spec says, otherwise each input read once and each output written once."""
    if spec.bytes is not None:
        return spec.bytes(call)
    read = sum(v.nbytes for v in inputs.values() if v is not None)
    return int(read + sum(prod(int(d) for d in t.shape) * SIZES.get(t.dtype, 4) for t in output_types(spec, call)))


def native_inputs(spec: OpSpec, case: Case, backend: Backend, seed: int = 0) -> dict[str, Any]:
    """The inputs of a case as native float32 arrays; indices that kernels want on the host stay numpy."""
    rng = np.random.default_rng(seed)
    hosts = {i.name for i in spec.inputs if i.host}
    found = {}
    for name, draw in case.inputs.items():
        value = draw.make(rng)
        if isinstance(value, QuantWeight):
            found[name] = value.with_arrays({k: backend.from_numpy(a) for k, a in value.arrays.items()})
        else:
            value = value.astype(np.float32) if value.dtype == np.float64 else value
            found[name] = value if name in hosts else backend.from_numpy(value)
    return found


def make_call(spec: OpSpec, case: Case, device: str) -> tuple[Call, dict[str, Any]]:
    """The checked call of a case in float32, and its numpy inputs."""
    rng = np.random.default_rng(0)
    values = {}
    for name, draw in case.inputs.items():
        value = draw.make(rng)
        values[name] = value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value
    types = {n: quant_type(v) if isinstance(v, QuantWeight) else ArrayType(tuple(v.shape), str(v.dtype)) for n, v in values.items()}
    return replace(check_call(spec, types, case.attributes, device), bound=True), values


def prepared_call(registry: Registry, spec: OpSpec, case: Case, backend: Backend) -> tuple[Callable[[], Any], str]:
    """A call that runs the chosen kernel on packed weights, as a bound program would, and the kernel's id."""
    call, _ = make_call(spec, case, backend.device)
    choice = registry.choose(call, backend)
    return _packed_call(registry, choice, native_inputs(spec, case, backend), case.attributes), choice.id


def _packed_call(registry: Registry, choice: Choice, values: Mapping[str, Any], attributes: Mapping[str, Any]) -> Callable[[], Any]:
    function, spec = registry.function(choice), registry.spec(choice.op)
    prepare = choice.kernel.prepare_function() if choice.kernel else None
    names = choice.kernel.prepares if choice.kernel and prepare else ()
    packed = {n: prepare(v, (f"{spec.name}.{n}",)) if prepare and n in names else v for n, v in values.items()}
    args = [packed.pop(i.name) for i in spec.positional]
    return lambda: function(*args, **packed, **attributes)


def bench_ops(
    registry: Registry, backends: Iterable[str], ops: Iterable[str], rounds: int, on_step: Callable[[str], None]
) -> Iterator[OpTiming | tuple[str, str, str, str]]:
    """Time each op; yields a timing, or (op, case, backend, reason) where it does not run."""
    for name in backends:
        backend = registry.backend(name)
        on_step(f"{name}: measuring the machine's limits")
        limits = _limits(registry, backend)
        for op in ops:
            spec = registry.spec(op)
            for case in (c for c in spec.cases if c.tier == "bench"):
                on_step(f"{name}: {op} {case.id}")
                try:
                    yield _time(registry, spec, case, backend, limits, rounds)
                except UnsupportedError as error:
                    yield op, case.id, name, str(error)


def _limits(registry: Registry, backend: Backend) -> Limits:
    spec = registry.spec("linear")
    case = next(c for c in spec.cases if c.tier == "bench")
    call, _ = make_call(spec, case, backend.device)
    choice = registry.choose(call, backend)
    return measure_limits(backend, lambda x, weight: _packed_call(registry, choice, {"x": x, "weight": weight}, {}))


def _time(registry: Registry, spec: OpSpec, case: Case, backend: Backend, limits: Limits, rounds: int) -> OpTiming:
    run, kernel = prepared_call(registry, spec, case, backend)
    call, values = make_call(spec, case, backend.device)

    def synced() -> None:
        result = run()
        backend.synchronize(
            *(result if isinstance(result, tuple) else [result] if not isinstance(result, QuantWeight) else result.arrays.values())
        )

    with backend.step_context():
        times = timed(synced, rounds, least=0.002)
    seconds = median(times)
    moved, computed = call_bytes(spec, call, values) / seconds / 1e9, spec.flops(call) / seconds / 1e9
    reached = max(moved / limits.gb_s, computed / limits.gflop_s)
    return OpTiming(spec.name, case.id, backend.name, kernel, seconds, max(times), moved, computed, reached)
