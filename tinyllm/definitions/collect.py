"""What is exported: the ops at the shapes of their benchmark's cases, or at those of a model's run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from tinyllm.definitions.definition import Definition, define
from tinyllm.definitions.workload import Workload, workload_of
from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.graph.observe import Ran
from tinyllm.graph.tools.recorder import Recorder
from tinyllm.spec.cases import Case
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import INTEGERS, ArrayType, Call
from tinyllm.spec.validation import check_call

VARYING = frozenset({"L", "S", "T", "P", "M", "B", "B1"})
"""Axes of patterns that vary in a case, beside leading ones: tokens, pages, sequences."""


@dataclass
class Collection:
    """Definitions by name with their workloads, and why an op is not among them."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    workloads: dict[str, dict[str, Workload]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    dense: dict[str, str] = field(default_factory=dict)
    """Per definition the scheme of the weights that it has as floats."""

    def add(self, spec: OpSpec, symbolic: Call, concrete: Call, values: Mapping[str, np.ndarray]) -> None:
        """A call, as a workload of a definition that takes it or of a new one.

        symbolic: the call with names for sizes that vary. values: those of its inputs of integers.
        """
        scheme = next((str(k.scheme) for k in symbolic.inputs.values() if isinstance(k, QuantType)), "")
        symbolic, concrete = _without_schemes(spec, symbolic), _without_schemes(spec, concrete)
        known = (d for d in self.definitions.values() if d.spec.name == spec.name and not d.declines(concrete))
        found = next(known, None)
        if found is None:
            try:
                found = define(spec, symbolic)
            except UnsupportedError as error:
                self.left_out.setdefault(spec.name, str(error))
                return
            names = (f"{found.name}_{number}" for number in count(2))
            if found.name in self.definitions:
                found = replace(found, name=next(name for name in names if name not in self.definitions))
            self.definitions[found.name] = found
        if scheme:
            self.dense[found.name] = scheme
        workload = workload_of(found, concrete, values)
        self.workloads.setdefault(found.name, {})[workload.uuid] = workload


def _without_schemes(spec: OpSpec, call: Call) -> Call:
    """The call on the matrices that its quantized weights stand for; weights that an op is about stay."""
    about = {i.name for i in spec.inputs if i.kind == "quant"}
    types = {
        name: ArrayType(kind.shape, kind.dtype) if isinstance(kind, QuantType) and name not in about else kind
        for name, kind in call.inputs.items()
    }
    return check_call(spec, types, call.attributes)


def of_calls(calls: Iterable[tuple[OpSpec, Call, Mapping[str, Any]]]) -> Collection:
    """Ops at the shapes of calls with their inputs in numpy: leading axes vary, and those that count tokens."""
    found = Collection()
    for spec, call, inputs in calls:
        found.add(spec, _varying(spec, call), call, _integers(inputs))
    return found


def of_cases(specs: Iterable[OpSpec], dtype: str) -> Collection:
    """Ops at the shapes that `bench ops` times them at, the largest first; no floats are drawn."""
    stated = list(specs)
    cases = [(spec, case) for spec in stated for case in spec.cases if case.tier == "bench"]
    cases = [(spec, case) for spec, case in cases if not any(i.kind == "quant" for i in spec.inputs)]
    found = of_calls(_drawn(spec, case, dtype) for spec, case in sorted(cases, key=lambda pair: -pair[1].size))
    for spec in stated:
        if any(i.kind == "quant" for i in spec.inputs):
            found.left_out[spec.name] = "it takes a quantized weight, which is no tensor"
        elif all(spec is not other for other, _ in cases):
            found.left_out[spec.name] = "it has no case that is timed"
    return found


def _drawn(spec: OpSpec, case: Case, dtype: str) -> tuple[OpSpec, Call, dict[str, np.ndarray]]:
    """The call of a case, with the integers that steer it; weights are dense."""
    rng = np.random.default_rng(0)
    types: dict[str, ArrayType] = {}
    values: dict[str, np.ndarray] = {}
    for i in (i for i in spec.inputs if i.name in case.inputs):
        draw = case.inputs[i.name]
        kept = draw.dtype or ("float32" if i.kind == "float" else dtype)
        if i.kind in ("int", "bool", "mask"):
            drawn = np.asarray(draw.make(rng))
            kept = dtype if drawn.dtype.kind == "f" else str(drawn.dtype)
            values |= {i.name: drawn} if i.kind == "int" else {}
        types[i.name] = ArrayType(tuple(draw.shape), kept)
    return spec, check_call(spec, types, case.attributes), values


def _integers(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays = {n: v for n, v in inputs.items() if not isinstance(v, QuantWeight)}
    return {n: np.asarray(v) for n, v in arrays.items() if str(v.dtype) in INTEGERS}


def _varying(spec: OpSpec, call: Call) -> Call:
    """A call with names for its leading axes and those that count tokens; of two of one size that have to be alike one
    name. As it is where the op must know its sizes."""
    ways: tuple[Callable[[str, int], Any], ...] = (
        lambda axis, size: axis,
        lambda axis, size: axis if size > 1 else size,
        lambda axis, size: f"n{size}" if size > 1 else size,
    )
    for way in ways:
        types = {i.name: _named(i.shape, call.inputs[i.name], way) for i in spec.inputs}
        try:
            named = check_call(spec, types, call.attributes)
        except InvalidInputError:
            continue
        if _agree(named, call):
            return named
    return call


def _agree(named: Call, call: Call) -> bool:
    """Whether each name stands for one size."""
    sizes: dict[Any, int] = {}
    pairs = [(k, call.inputs[n]) for n, k in named.inputs.items() if k is not None]
    both = [pair for kind, own in pairs if own is not None for pair in zip(kind.shape, own.shape, strict=True)]
    return all(sizes.setdefault(name, size) == size for name, size in both if isinstance(size, int))


def _named(pattern: str, kind: Any, way: Callable[[str, int], Any]) -> Any:
    if kind is None:
        return None
    names = pattern.split()
    group = names.pop(0)[1:] if pattern.startswith("*") else ""
    lead = len(kind.shape) - len(names)
    axes = [f"{group}{n}" for n in range(lead)] + names
    return replace(
        kind,
        shape=tuple(
            way(axis, size) if n < lead or axis in VARYING else size
            for n, (axis, size) in enumerate(zip(axes, kind.shape, strict=True))
        ),
    )


@dataclass
class Collector(Recorder):
    """An observer of values that tells every call that a program makes to a collection."""

    found: Collection = field(default_factory=Collection)

    def __call__(self, ran: Ran) -> None:
        """Tell the call of a node, if none of its form came before."""
        before = set(self.calls)
        super().__call__(ran)
        new = set(self.calls) - before
        if ran.node.asked is not None and new:
            spec, recorded = self.specs[ran.node.op], self.calls[new.pop()]
            concrete = check_call(spec, recorded.types, recorded.attributes)
            self.found.add(spec, ran.node.asked, concrete, recorded.values)
