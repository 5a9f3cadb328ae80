"""Shapes files: calls that a real model made, as JSON lines, and cases made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from math import prod
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import numpy as np

from tinyllm.errors import TinyllmError, suggest
from tinyllm.graph.tools.recorder import Recorded
from tinyllm.spec.cases import Case, Draw, booleans, constant, integers, normal, quantized
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.rope import Rope, RopeScaling
from tinyllm.spec.scheme import QuantType, Scheme
from tinyllm.spec.types import FLOATS, INTEGERS, ArrayType
from tinyllm.spec.validation import check_call, output_types

SETTINGS = {"RopeScaling": RopeScaling, "Rope": Rope}
"""Attributes that are objects, by their class."""
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


def encoded(value: Any) -> Any:
    """The value of an attribute: tuples are lists, one of `SETTINGS` is an object of its class and fields."""
    if type(value).__name__ in SETTINGS:
        return {type(value).__name__: {f.name: encoded(getattr(value, f.name)) for f in dataclass_fields(value)}}
    return list(value) if isinstance(value, tuple) else value


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


def _wrong(field: str, expected: str, got: Any) -> ValueError:
    """The one wording of a malformed line; long values are cut."""
    told = got if isinstance(got, str) else json.dumps(got, default=str)
    return ValueError(
        f"{field}{': ' if field else ''}expected {expected}, got {told if len(told) <= 80 else told[:77] + '...'}"
    )


def _parsed(line: str) -> Any:
    def constant(name: str) -> NoReturn:
        raise _wrong("", "JSON", name)

    try:
        return json.loads(line, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, got {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise _wrong("", "a call", "JSON that is nested too deeply") from error


def _object(field: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(field, "an object", value)
    return value


def _integer(field: str, value: Any, minimum: int) -> int:
    if type(value) is not int or value < minimum:
        raise _wrong(field, f"an integer of at least {minimum}", value)
    return value


def _one_of(field: str, value: Any, known: Iterable[Any]) -> Any:
    known = tuple(known)
    if not any(type(value) is type(k) and value == k for k in known):
        hint = suggest(value, map(str, known)) if isinstance(value, str) else ""
        few = "a known one" if len(known) > 12 else f"one of {', '.join(map(str, known))}" if known else "none"
        got = repr(value) if isinstance(value, str) else value
        raise ValueError(f"{_wrong(field, few, got)}{'.' + hint if 'Did' in hint else ''}")
    return value


def _case(line: Any, specs: Mapping[str, OpSpec], schemes: Mapping[str, Scheme], number: int) -> tuple[str, Case]:
    fields = _object("", line)
    for needed, what in (("op", "the name of an op"), ("inputs", "an object")):
        if needed not in fields:
            raise _wrong(needed, what, "nothing")
    spec = specs[_one_of("op", fields["op"], specs)]
    _integer("count", fields.get("count", 1), 1)
    given, settings = _object("inputs", fields["inputs"]), _object("attributes", fields.get("attributes", {}))
    for field, names, known in (
        ("inputs", given, [i.name for i in spec.inputs]),
        ("attributes", settings, [a.name for a in spec.attributes]),
    ):
        for name in names:
            _one_of(f"{spec.name}: {field}", name, known)
    attributes = {name: decoded(name, value) for name, value in settings.items()}
    types: dict[str, ArrayType | QuantType] = {}
    draws: dict[str, Draw] = {}
    values: dict[str, np.ndarray] = {}
    for i in spec.inputs:
        if i.name in given:
            types[i.name], draws[i.name] = _input(i.name, _object(i.name, given[i.name]), values, schemes)
        elif not i.optional:
            raise _wrong(i.name, "an input", "nothing")
    call = check_call(spec, types, attributes)
    for output in output_types(spec, call):
        _sized("output", list(output.shape))
    if spec.check_values is not None:
        for i in spec.inputs:
            if i.kind == "int" and i.name in types and i.name not in values:
                raise _wrong(f"{i.name}.values", f"the numbers that steer {spec.name}", "nothing")
        spec.check_values(call, values)
    shapes = ",".join("x".join(map(str, t.shape)) or "scalar" for t in types.values())
    return spec.name, Case(f"line{number}:{shapes}", draws, attributes, tier="shapes")


def decoded(field: str, value: Any) -> Any:
    """The value of an attribute: lists are tuples, an object is one of `SETTINGS`."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise _wrong(field, f"one of {', '.join(SETTINGS)} with its fields", value)
    ((name, fields),) = value.items()
    kind = SETTINGS[_one_of(field, name, SETTINGS)]
    hints, made = get_type_hints(kind), {}
    for part, inner in _object(f"{field}.{name}", fields).items():
        where = f"{field}.{name}.{part}"
        wanted = _kinds(hints[_one_of(f"{field}.{name}", part, hints)])
        made[part] = decoded(where, inner)
        if type(made[part]) not in wanted and not (float in wanted and type(made[part]) is int):
            raise _wrong(where, " or ".join("null" if w is NoneType else w.__name__ for w in wanted), inner)
    return kind(**made)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a type hint allows; of tuples nothing is said of what is in them."""
    several = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(kind) or kind for kind in several)


def _sized(field: str, shape: Any) -> tuple[int, ...]:
    """A shape that is one, of an array that memory may hold."""
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise _wrong(field, "a shape, at most 32 integers of at least 0", shape)
    if prod(max(n, 1) for n in shape) > MOST:
        raise _wrong(field, f"at most {MOST} elements", shape)
    return tuple(shape)


def _input(
    name: str, given: Mapping[str, Any], values: dict[str, np.ndarray], schemes: Mapping[str, Scheme]
) -> tuple[ArrayType | QuantType, Draw]:
    """Type and draw of an input; its numbers go to `values` where the line has them."""
    shape = _sized(f"{name}.shape", given.get("shape", "nothing"))
    if "scheme" in given:
        return _quantized(name, given, shape, schemes)
    dtype = _one_of(f"{name}.dtype", given.get("dtype", "nothing"), (*FLOATS, *INTEGERS, "bool"))
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
    registered = schemes[_one_of(f"{name}.scheme", given["scheme"], schemes)]
    parameters = {parameter: given.get(parameter, "nothing") for parameter in registered.parameters}
    for field in given:
        _one_of(name, field, ("scheme", "shape", *parameters))
    for parameter, value in parameters.items():
        _integer(f"{name}.{parameter}", value, 1)
    scheme = replace(registered, **parameters)
    if len(shape) != 2:
        raise _wrong(f"{name}.shape", "two sizes, rows and columns", list(shape))
    expected = (
        f"columns that groups of {scheme.block} divide" if shape[1] % scheme.block else scheme.check_parameters(shape)
    )
    if expected:
        raise _wrong(f"{name}.shape", expected, list(shape))
    return QuantType(shape, scheme), quantized(scheme, *shape)


def _numbers(field: str, given: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The recorded numbers, each of which its dtype holds."""
    try:
        raw = np.asarray(given)
    except ValueError as error:
        raise _wrong(field, "rows of one length", given) from error
    if raw.shape != shape:
        raise _wrong(field, f"numbers of shape {list(shape)}", f"shape {list(raw.shape)}")
    kinds, words = (
        ("b", "true or false")
        if dtype == "bool"
        else ("iu", f"{dtype} numbers")
        if dtype in INTEGERS
        else ("iuf", "numbers")
    )
    if raw.size and raw.dtype.kind not in kinds:
        raise _wrong(field, words, given)
    if (
        raw.size
        and dtype in INTEGERS
        and not np.iinfo(dtype).min <= int(raw.min()) <= int(raw.max()) <= np.iinfo(dtype).max
    ):
        raise _wrong(field, words, f"{raw.min()} to {raw.max()}")
    return raw.astype(numpy_dtype(dtype))
