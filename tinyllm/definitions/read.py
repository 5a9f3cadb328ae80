"""Reads definitions and workloads of a folder, as `export` writes them, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.definitions.definition import ATTRIBUTE, Definition, Tensor, define
from tinyllm.definitions.schema import DefinitionFile, TraceFile, WorkloadFile, inside, parsed, read, text_of
from tinyllm.definitions.workload import Workload, read_arrays
from tinyllm.errors import InvalidInputError, UnknownNameError, UnsupportedError, suggest
from tinyllm.spec.attribute_json import decoded
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.types import ArrayType
from tinyllm.spec.validation import check_call


def read_definition(folder: Path, name: str, specs: Mapping[str, OpSpec]) -> Definition:
    """A definition by its name.

    Raises:
        UnknownNameError: the folder has none of this name, or it is of an op that there is not; with the nearest name.
        InvalidInputError: it is no definition of that op; names the file and what is wrong.
    """
    files = {path.stem: path for path in (folder / "definitions").rglob("*.json")}
    if name not in files:
        raise UnknownNameError(f"{folder}: unknown definition {name!r}.{suggest(name, files)}")
    path = files[name]
    given = read(DefinitionFile, path)
    if given.op_type not in specs:
        raise UnknownNameError(f"{path}: op_type: unknown op {given.op_type!r}.{suggest(given.op_type, specs)}")
    try:
        made = _defined(given, specs[given.op_type])
    except (InvalidInputError, UnsupportedError) as error:
        raise InvalidInputError(f"{path}: {error}") from error
    return made


def _defined(given: DefinitionFile, spec: OpSpec) -> Definition:
    """The definition of the call that a file says."""
    sizes = {axis: kind.value if kind.type == "const" else axis for axis, kind in given.axes.items()}
    sizes |= {b: sizes.get(a) for a, _, b in (text.partition(" == ") for text in given.constraints) if b in sizes}
    attributes, types = _attributes(given.tags), {}
    taken = [i.name for i in spec.inputs]
    for name, tensor in given.inputs.items():
        if tensor.shape is None:
            attributes[name] = _some_float(name, spec)
            continue
        if name not in taken:
            raise InvalidInputError(f"inputs: {spec.name} has no input {name!r}.{suggest(name, taken)}")
        shape = tuple(sizes.get(axis) for axis in tensor.shape)
        if None in shape:
            raise InvalidInputError(f"inputs: {name}: shape: expected axes with sizes, got {tensor.shape}")
        types[name] = ArrayType(shape, tensor.dtype)  # type: ignore[arg-type]
    known = [a.name for a in spec.attributes]
    for name in attributes:
        if name not in known:
            raise InvalidInputError(f"{spec.name} has no attribute {name!r}.{suggest(name, known)}")
    missing = [i.name for i in spec.positional if i.name not in types]
    if missing:
        raise InvalidInputError(f"inputs: {missing[0]} is missing")
    made = define(spec, check_call(spec, types, attributes))
    outputs = {name: Tensor(_axes(t.shape), t.dtype) for name, t in given.outputs.items()}
    wanted = [(tuple(made.axes[a] for a in t.shape or ()), t.dtype) for t in made.outputs.values()]
    if [(tuple(sizes.get(a) for a in t.shape or ()), t.dtype) for t in outputs.values()] != wanted:
        own = ", ".join(f"{n} {ArrayType(*kind)}" for n, kind in zip(made.outputs, wanted, strict=True))
        raise InvalidInputError(f"outputs: expected {own}, got {', '.join(outputs) or 'none'}")
    inputs = {name: Tensor(_axes(t.shape), t.dtype) for name, t in given.inputs.items()}
    axes = {axis: size for axis, size in sizes.items() if size is not None}
    return Definition(given.name, spec, made.call, axes, inputs, outputs, made.scalars)


def _axes(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _some_float(name: str, spec: OpSpec) -> float:
    """A value of a scalar: which one, a call says."""
    attribute = next((a for a in spec.attributes if a.name == name), None)
    if attribute is None:
        known = [a.name for a in spec.attributes]
        raise InvalidInputError(f"inputs: {spec.name} has no attribute {name!r}.{suggest(name, known)}")
    fine = (value for value in (0.5, 1.5) if attribute.check(value) is None and value != attribute.default)
    if (value := next(fine, None)) is None:
        raise InvalidInputError(f"inputs: {name}: {attribute.check(0.5)} is no scalar input")
    return value


def _attributes(tags: list[str]) -> dict[str, Any]:
    found = {}
    for tag in tags:
        if tag.startswith(ATTRIBUTE):
            name, _, text = tag.removeprefix(ATTRIBUTE).partition("=")
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise InvalidInputError(f"tags: {name}: expected JSON, got {text!r}") from error
            found[name] = _decoded(name, value)
    return found


def _decoded(name: str, value: Any) -> Any:
    try:
        return decoded(name, value)
    except ValueError as error:
        raise InvalidInputError(f"tags: {error}") from error


def read_workloads(folder: Path, definition: Definition) -> list[Workload]:
    """The workloads of a definition that stand in the folder; none where it has no file of them.

    Raises:
        InvalidInputError: a line that is none, or one of other axes or inputs; names the file and the line.
    """
    path = folder / "workloads" / definition.spec.name / f"{definition.name}.jsonl"
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        where = f"{path}: line {number}"
        if line.strip():
            found.append(_workload(parsed(TraceFile, line, where).workload, definition, folder, where))
    return found


def _workload(given: WorkloadFile, definition: Definition, folder: Path, where: str) -> Workload:
    axes = {axis for axis, size in definition.axes.items() if isinstance(size, str)}
    if axes - {*given.axes}:
        raise InvalidInputError(f"{where}: axes: {min(axes - {*given.axes})} is missing")
    if {*given.inputs} != {*definition.inputs}:
        raise InvalidInputError(
            f"{where}: inputs: expected {', '.join(definition.inputs)}, got {', '.join(given.inputs)}"
        )
    scalars, values = {}, {}
    for name, one in given.inputs.items():
        if name in definition.scalars:
            if one.type != "scalar" or one.value is None:
                raise InvalidInputError(f"{where}: inputs: {name}: expected a scalar, got {one.type}")
            scalars[name] = one.value
        elif one.type == "safetensors":
            values[name] = _array(one.path, one.tensor_key, folder, f"{where}: inputs: {name}")
    return Workload({axis: given.axes[axis] for axis in sorted(axes)}, scalars, values)


def _array(path: str, key: str, folder: Path, where: str) -> np.ndarray:
    if not inside(path):
        raise InvalidInputError(f"{where}: path: expected one within the folder, got {path!r}")
    arrays = read_arrays(folder / path)
    if key not in arrays:
        raise InvalidInputError(f"{where}: tensor_key: {path} has no {key!r}.{suggest(key, arrays)}")
    return arrays[key]
