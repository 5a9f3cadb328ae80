"""One call of a kernel with its data, in a file: `tinyllm diff` writes it, `tinyllm check --case FILE` judges it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.conformance.array_file import read_arrays, write_arrays
from tinyllm.conformance.checks.check import Admitted, Check, Plan, Trial
from tinyllm.conformance.checks.values import run_and_judge
from tinyllm.conformance.example import Example
from tinyllm.conformance.judge import Verdict
from tinyllm.conformance.subject import Subject
from tinyllm.errors import InvalidInputError
from tinyllm.registry.registry import Registry
from tinyllm.spec.attribute_json import decoded, encoded
from tinyllm.spec.scheme import QuantWeight

KIND = "tinyllm_case"
MAKER = "tinyllm diff"
SUFFIX = ".safetensors"
FIELDS = ("op", "attributes", "weights", "dtype", "backend", "kernel", "node")


@dataclass(frozen=True)
class NodeCase:
    """A call that a model made. backend: `native:cpu`. kernel: the id of what ran it. node: its name in the model."""

    example: Example
    backend: str
    kernel: str
    node: str


def is_case_file(case: str) -> bool:
    """Whether `--case` names a file, there or not, and no check: an id has a bracket, and begins with a name."""
    begins_as_path = case.startswith(("/", ".", "~"))
    return case.endswith(SUFFIX) or begins_as_path or ("/" in case and "[" not in case) or Path(case).is_file()


def write_case(path: Path, case: NodeCase) -> None:
    """Raises `TinyllmError` where the file cannot be written."""
    arrays: dict[str, np.ndarray] = {}
    weights: dict[str, Any] = {}
    for name, value in case.example.inputs.items():
        if isinstance(value, QuantWeight):
            arrays |= {f"{name}/{part}": array for part, array in value.arrays.items()}
            scheme = {"scheme": value.scheme.name, "parameters": dict(value.scheme.parameters)}
            weights[name] = scheme | {"shape": list(value.shape), "dtype": value.dtype}
        else:
            arrays[name] = value
    about = {
        "op": case.example.spec.name,
        "dtype": case.example.dtype,
        "attributes": {name: encoded(value) for name, value in case.example.attributes.items()},
        "weights": weights,
        "backend": case.backend,
        "kernel": case.kernel,
        "node": case.node,
    }
    write_arrays(path, KIND, about, arrays)


def read_case(path: Path, registry: Registry) -> NodeCase:
    """The call in a file.

    Raises:
        InvalidInputError: no such file, or one that is no case. UnknownNameError: an op that is not there.
    """
    about, arrays = read_arrays("check: --case", path, KIND, MAKER, FIELDS)
    spec = registry.spec(about["op"])
    weights = {name: _weight(name, said, arrays, registry) for name, said in about["weights"].items()}
    inputs = {i.name: weights.get(i.name, arrays.get(i.name)) for i in spec.inputs}
    attributes = {name: decoded(name, value) for name, value in about["attributes"].items()}
    given = {name: value for name, value in inputs.items() if value is not None}
    example = Example(spec, about["node"], about["dtype"], given, attributes)
    return NodeCase(example, about["backend"], about["kernel"], about["node"])


def _weight(name: str, said: Mapping[str, Any], arrays: Mapping[str, np.ndarray], registry: Registry) -> QuantWeight:
    known = registry.plugins.schemes
    if said["scheme"] not in known:
        raise InvalidInputError(f"check: --case: {name}: expected a scheme that is registered, got {said['scheme']!r}")
    scheme = replace(known[said["scheme"]], **said["parameters"])
    parts = {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith(f"{name}/")}
    return QuantWeight(scheme, parts, tuple(said["shape"]), said["dtype"])


def case_checks(registry: Registry, plan: Plan) -> Iterator[Check]:
    """The check of the case file that a plan names: the kernel that it was written of, or on another backend each that
    takes the call; a failure where none does.

    Raises as `read_case` does.
    """
    case = read_case(Path(plan.case), registry)
    backend = registry.backend(plan.backend)
    trial = Trial(registry, backend, case.example.spec, replace(plan, case=""))
    taking = [s for s in trial.subjects if not s.declines(case.example.call)]
    same = [s for s in taking if _ids(s) & {case.kernel}]
    for subject in same or taking:
        yield trial.check(case.node, partial(_judged, subject, case.example), subject=subject, dtype=case.example.dtype)
    if not taking:
        reasons = "; ".join(f"{s.id}: {s.declines(case.example.call)}" for s in trial.subjects)
        yield trial.failing(case.node, f"no kernel takes the call: {reasons}", dtype=case.example.dtype)


def _ids(subject: Subject) -> set[str]:
    """What a bound program calls a kernel; one for every CPU goes by that."""
    return {subject.id, subject.kernel.id if subject.kernel else subject.id}


def _judged(subject: Subject, example: Example, admitted: Admitted) -> Verdict:
    return run_and_judge(subject, example, admitted)
