"""Shapes files: calls that a real model made, as JSON lines, and cases made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tinyllm.errors import TinyllmError
from tinyllm.graph.tools.recorder import Recorded
from tinyllm.spec.attribute_json import decoded, encoded, object_in, one_of, wrong
from tinyllm.spec.cases import Case, Draw, booleans, constant, integers, normal, quantized
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType, Scheme
from tinyllm.spec.types import FLOATS, INTEGERS, ArrayType
from tinyllm.spec.validation import check_call, output_types

MOST = 2**31
"""Elements that an array of a case may have: a size beyond is a slip, and would end in a lack of memory."""


class ShapesFileError(TinyllmError):
    """A shapes file that is not there or malformed; the message has the line."""

    exit_code = 2


def to_line(call: Recorded, count: int) -> str:
    """A call as a line of a shapes file; `count` is how often the model made it."""
    inputs: dict[str, Any] = {}
    for name, kind in call.types.items():
        if isinstance(kind, QuantType):
            inputs[name] = {"scheme": kind.scheme.name, **kind.scheme.parameters, "shape": list(kind.shape)}
        else:
            inputs[name] = {"dtype": kind.dtype, "shape": list(kind.shape)}
            if name in call.values:
                inputs[name]["values"] = call.values[name].tolist()
    attributes = {name: encoded(value) for name, value in call.attributes.items()}
    return json.dumps({"op": call.op, "inputs": inputs, "attributes": attributes, "count": count})


def write_shapes(path: Path, calls: Iterable[tuple[Recorded, int]]) -> None:
    """One line a call.

    Raises:
        ShapesFileError: the file cannot be written.
    """
    try:
        path.write_text("".join(to_line(call, count) + "\n" for call, count in calls), encoding="utf-8")
    except OSError as error:
        raise ShapesFileError(f"shapes file {path}: cannot be written: {error.strerror}") from error


def read_shapes(path: str, specs: Mapping[str, OpSpec], schemes: Mapping[str, Scheme]) -> dict[str, tuple[Case, ...]]:
    """The cases of a shapes file by op, the model's integers kept and its floats drawn anew.

    Raises:
        ShapesFileError: no such file, nothing in it, or a line that is no valid call of a known op.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ShapesFileError(f"shapes file {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#x} at {error.start}"
        raise ShapesFileError(f"shapes file {path}: expected text in UTF-8, got {byte}") from error
    cases: dict[str, list[Case]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                op, case = _case(_parsed(line), specs, schemes, number)
            except (TinyllmError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
                told = isinstance(error, (TinyllmError, ValueError))
                what = str(error) if told else f"expected a valid call, got {type(error).__name__}: {error}"
                raise ShapesFileError(f"shapes file {path}: line {number}: {what}") from error
            cases.setdefault(op, []).append(case)
    if not cases:
        raise ShapesFileError(f"shapes file {path}: expected a line for each call, got none")
    return {op: tuple(found) for op, found in cases.items()}


def _parsed(line: str) -> Any:
    def constant(name: str) -> NoReturn:
        raise wrong("", "JSON", name)

    try:
        return json.loads(line, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, got {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise wrong("", "a call", "JSON that is nested too deeply") from error


def _integer(field: str, value: Any, minimum: int) -> int:
    if type(value) is not int or value < minimum:
        raise wrong(field, f"an integer of at least {minimum}", value)
    return value


def _case(line: Any, specs: Mapping[str, OpSpec], schemes: Mapping[str, Scheme], number: int) -> tuple[str, Case]:
    fields = object_in("", line)
    for needed, what in (("op", "the name of an op"), ("inputs", "an object")):
        if needed not in fields:
            raise wrong(needed, what, "nothing")
    spec = specs[one_of("op", fields["op"], specs)]
    _integer("count", fields.get("count", 1), 1)
    given, settings = object_in("inputs", fields["inputs"]), object_in("attributes", fields.get("attributes", {}))
    for field, names, known in (
        ("inputs", given, [i.name for i in spec.inputs]),
        ("attributes", settings, [a.name for a in spec.attributes]),
    ):
        for name in names:
            one_of(f"{spec.name}: {field}", name, known)
    attributes = {name: decoded(name, value) for name, value in settings.items()}
    types: dict[str, ArrayType | QuantType] = {}
    draws: dict[str, Draw] = {}
    values: dict[str, np.ndarray] = {}
    for i in spec.inputs:
        if i.name in given:
            types[i.name], draws[i.name] = _input(i.name, object_in(i.name, given[i.name]), values, schemes)
        elif not i.optional:
            raise wrong(i.name, "an input", "nothing")
    call = check_call(spec, types, attributes)
    for output in output_types(spec, call):
        _sized("output", list(output.shape))
    if spec.check_values is not None:
        for i in spec.inputs:
            if i.kind == "int" and i.name in types and i.name not in values:
                raise wrong(f"{i.name}.values", f"the numbers that steer {spec.name}", "nothing")
        spec.check_values(call, values)
    shapes = ",".join("x".join(map(str, t.shape)) or "scalar" for t in types.values())
    return spec.name, Case(f"line{number}:{shapes}", draws, attributes, tier="shapes")


def _sized(field: str, shape: Any) -> tuple[int, ...]:
    """A shape that is one, of an array that memory may hold."""
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise wrong(field, "a shape, at most 32 integers of at least 0", shape)
    if prod(max(n, 1) for n in shape) > MOST:
        raise wrong(field, f"at most {MOST} elements", shape)
    return tuple(shape)


def _input(
    name: str, given: Mapping[str, Any], values: dict[str, np.ndarray], schemes: Mapping[str, Scheme]
) -> tuple[ArrayType | QuantType, Draw]:
    """Type and draw of an input; its numbers go to `values` where the line has them."""
    shape = _sized(f"{name}.shape", given.get("shape", "nothing"))
    if "scheme" in given:
        return _quantized(name, given, shape, schemes)
    dtype = one_of(f"{name}.dtype", given.get("dtype", "nothing"), (*FLOATS, *INTEGERS, "bool"))
    if "values" in given:
        values[name] = _numbers(f"{name}.values", given["values"], dtype, shape)
        return ArrayType(shape, dtype), constant(values[name])
    if dtype == "bool":
        return ArrayType(shape, dtype), booleans(*shape)
    if dtype in INTEGERS:
        return ArrayType(shape, dtype), integers(0, 2, *shape)
    wide = len(shape) == 2 and name.endswith(("weight", "proj"))
    return ArrayType(shape, dtype), normal(*shape, scale=shape[-1] ** -0.5 if wide and shape[-1] else 1.0)


def _quantized(
    name: str, given: Mapping[str, Any], shape: tuple[int, ...], schemes: Mapping[str, Scheme]
) -> tuple[QuantType, Draw]:
    """A weight of a scheme that is registered, its parameters beside its name."""
    registered = schemes[one_of(f"{name}.scheme", given["scheme"], schemes)]
    parameters = {parameter: given.get(parameter, "nothing") for parameter in registered.parameters}
    for field in given:
        one_of(name, field, ("scheme", "shape", *parameters))
    for parameter, value in parameters.items():
        _integer(f"{name}.{parameter}", value, 1)
    scheme = replace(registered, **parameters)
    if len(shape) != 2:
        raise wrong(f"{name}.shape", "two sizes, rows and columns", list(shape))
    expected = (
        f"columns that groups of {scheme.block} divide" if shape[1] % scheme.block else scheme.check_parameters(shape)
    )
    if expected:
        raise wrong(f"{name}.shape", expected, list(shape))
    return QuantType(shape, scheme), quantized(scheme, *shape)


def _numbers(field: str, given: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recorded numbers, each of which its dtype holds."""
    try:
        raw = np.asarray(given)
    except ValueError as error:
        raise wrong(field, "rows of one length", given) from error
    if raw.shape != shape:
        raise wrong(field, f"numbers of shape {list(shape)}", f"shape {list(raw.shape)}")
    kinds, words = (
        ("b", "true or false")
        if dtype == "bool"
        else ("iu", f"{dtype} numbers")
        if dtype in INTEGERS
        else ("iuf", "numbers")
    )
    if raw.size and raw.dtype.kind not in kinds:
        raise wrong(field, words, given)
    if (
        raw.size
        and dtype in INTEGERS
        and not np.iinfo(dtype).min <= int(raw.min()) <= int(raw.max()) <= np.iinfo(dtype).max
    ):
        raise wrong(field, words, f"{raw.min()} to {raw.max()}")
    return raw.astype(numpy_dtype(dtype))
