"""The calls that a definition is tried on: those of its workloads, and small sizes of the axes that vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinyllm.definitions.definition import Definition
from tinyllm.definitions.workload import Workload
from tinyllm.errors import InvalidInputError
from tinyllm.spec.cases import Case, Draw, booleans, constant, integers, normal
from tinyllm.spec.types import INTEGERS, ArrayType
from tinyllm.spec.validation import check_call

WORKLOAD = "workload "
"""Begins the id of a case that is one."""
SIZES = (1, 3, 17)
"""Of every axis that varies, one after the other."""


def cases_of(definition: Definition, workloads: Sequence[Workload]) -> list[Case]:
    """Cases of the smoke tier. Integers steer an op: where it has any, only the workloads say valid ones.

    Raises:
        InvalidInputError: a workload whose integers are none that the op takes.
    """
    made = [_case(f"{WORKLOAD}{w.uuid[:8]}", definition, w) for w in workloads]
    varying = [axis for axis, size in definition.axes.items() if isinstance(size, str)]
    if varying and not any(t.shape is not None and t.dtype in INTEGERS for t in definition.inputs.values()):
        scalars = workloads[0].scalars if workloads else dict.fromkeys(definition.scalars, 1.5)
        for size in SIZES:
            made.append(_case(f"sizes {size}", definition, Workload(dict.fromkeys(varying, size), scalars, {})))
    return made


def _case(name: str, definition: Definition, workload: Workload) -> Case:
    spec = definition.spec
    draws = {n: _draw(n, definition, workload) for n, tensor in definition.inputs.items() if tensor.shape is not None}
    attributes = definition.attributes | dict(workload.scalars)
    types = {n: ArrayType(draw.shape, definition.inputs[n].dtype) for n, draw in draws.items()}
    call = check_call(spec, types, attributes)
    if spec.check_values is not None:
        spec.check_values(call, _steering(definition, workload))
    return Case(name, draws, attributes)


def _steering(definition: Definition, workload: Workload) -> Mapping[str, Any]:
    for name, tensor in definition.inputs.items():
        if tensor.dtype in INTEGERS and name not in workload.values:
            raise InvalidInputError(f"{definition.name}: {name}: expected integers of a file, got random ones")
    return workload.values


def _draw(name: str, definition: Definition, workload: Workload) -> Draw:
    """Random numbers of an input, as a shapes file has them; integers as the workload has them."""
    tensor = definition.inputs[name]
    if name in workload.values:
        return constant(workload.values[name], tensor.dtype)
    shape = definition.shape(tensor, workload.axes)
    if tensor.dtype == "bool":
        return booleans(*shape)
    if tensor.dtype in INTEGERS:
        return integers(0, 2, *shape)
    wide = len(shape) > 1 and name.endswith(("weight", "proj"))
    return normal(*shape, scale=shape[-1] ** -0.5 if wide and shape[-1] else 1.0)
