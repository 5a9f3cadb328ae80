"""Shapes files: calls that a real model made, as JSON lines, and cases made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.catalogue.draws import constant, integers, normal, quantised
from tinyllm.errors import TinyllmError, suggest
from tinyllm.graph.trace import Recorded
from tinyllm.rope_scaling import Rope, RopeScaling
from tinyllm.spec import FLOATS, INTEGERS, ArrayType, Case, Draw, OpSpec, QuantType
from tinyllm.validation import check_call

SETTINGS = {"RopeScaling": RopeScaling, "Rope": Rope}
"""Attributes that are objects, by their class."""


class ShapesFileError(TinyllmError):
    """A shapes file that is not there or malformed; the message has the line."""

    exit_code = 2


def to_line(call: Recorded, count: int) -> str:
    """A call as a line of a shapes file; `count` is how often the model made it."""
    inputs: dict[str, Any] = {}
    for name, kind in call.types.items():
        if isinstance(kind, QuantType):
            inputs[name] = {"scheme": kind.scheme, "bits": kind.bits, "group_size": kind.group_size, "shape": list(kind.shape)}
        else:
            inputs[name] = {"dtype": kind.dtype, "shape": list(kind.shape)}
            if name in call.values:
                inputs[name]["values"] = call.values[name].tolist()
    attributes = {name: _encoded(value) for name, value in call.attributes.items()}
    return json.dumps({"op": call.op, "inputs": inputs, "attributes": attributes, "count": count})


def _encoded(value: Any) -> Any:
    if type(value).__name__ in SETTINGS:
        return {type(value).__name__: {n: _encoded(v) if not isinstance(v, dict) else v for n, v in _fields(value).items()}}
    return list(value) if isinstance(value, tuple) else value


def _fields(value: Any) -> dict[str, Any]:
    fields = asdict(value)
    return fields | {n: getattr(value, n) for n in fields if type(getattr(value, n)).__name__ in SETTINGS}


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        ((name, fields),) = value.items()
        return SETTINGS[name](**{n: _decoded(v) for n, v in fields.items()})
    return value


def write_shapes(path: Path, calls: Iterable[tuple[Recorded, int]]) -> None:
    """One line a call."""
    path.write_text("".join(to_line(call, count) + "\n" for call, count in calls), encoding="utf-8")


def read_shapes(path: str, specs: Mapping[str, OpSpec]) -> dict[str, tuple[Case, ...]]:
    """The cases of a shapes file by op, the model's integers kept and its floats drawn anew.

    Raises:
        ShapesFileError: no such file, or a line that is no valid call of a known op.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ShapesFileError(f"shapes file {path}: {error}") from error
    cases: dict[str, list[Case]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                op, case = _case(json.loads(line), specs, number)
            except (TinyllmError, ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"no {error} given" if isinstance(error, KeyError) else str(error)
                raise ShapesFileError(f"shapes file {path}: line {number}: {what}") from error
            cases.setdefault(op, []).append(case)
    return {op: tuple(found) for op, found in cases.items()}


def _case(line: Any, specs: Mapping[str, OpSpec], number: int) -> tuple[str, Case]:
    if not isinstance(line, dict):
        raise ValueError(f"expected an object, got {type(line).__name__}")
    op = line["op"]
    if op not in specs:
        raise ValueError(f"unknown op {op!r}.{suggest(str(op), specs)}")
    attributes = {name: _decoded(value) for name, value in line.get("attributes", {}).items()}
    types: dict[str, ArrayType | QuantType] = {}
    draws: dict[str, Draw] = {}
    for name, given in line["inputs"].items():
        types[name], draws[name] = _input(name, given)
    check_call(specs[op], types, attributes)
    unknown = [n for n in (*types, *attributes) if n not in specs[op].signature.parameters]
    if unknown:
        raise ValueError(f"{op}: unknown argument {unknown[0]!r}.{suggest(unknown[0], specs[op].signature.parameters)}")
    shapes = ",".join("x".join(map(str, t.shape)) or "scalar" for t in types.values())
    return op, Case(f"line{number}:{shapes}", draws, attributes, tier="shapes")


def _input(name: str, given: Mapping[str, Any]) -> tuple[ArrayType | QuantType, Draw]:
    shape = tuple(given["shape"])
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name}: expected a shape of integers, got {list(shape)}")
    if "scheme" in given:
        settings = {key: given[key] for key in ("scheme", "bits", "group_size")}
        return QuantType(shape, **settings), quantised(*shape, **settings)
    dtype = given["dtype"]
    if "values" in given:
        values = np.asarray(given["values"], dtype)
        if values.shape != shape:
            raise ValueError(f"{name}: values of shape {list(values.shape)} where shape says {list(shape)}")
        return ArrayType(shape, dtype), constant(values, dtype)
    if dtype == "bool":
        return ArrayType(shape, dtype), Draw(shape, lambda rng: rng.random(shape) < 0.7)
    if dtype in INTEGERS:
        return ArrayType(shape, dtype), integers(0, 2, *shape)
    if dtype not in FLOATS:
        raise ValueError(f"{name}: unknown dtype {dtype!r}.{suggest(str(dtype), (*FLOATS, *INTEGERS, 'bool'))}")
    wide = len(shape) == 2 and name.endswith(("weight", "proj"))
    return ArrayType(shape, dtype), normal(*shape, scale=shape[-1] ** -0.5 if wide and shape[-1] else 1.0)
