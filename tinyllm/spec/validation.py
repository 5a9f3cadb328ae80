"""Checks a call against its spec, before dispatch and in one place; the same code infers types in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyllm.errors import InvalidInputError, UnsupportedError, invalid, suggest
from tinyllm.spec.op_spec import REQUIRED, Input, OpSpec
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import FLOATS, INTEGERS, ArrayType, Call, Dim

Typed = ArrayType | QuantType

_FLOAT = FLOATS, f"a float dtype ({', '.join(FLOATS)})"
_DTYPES: dict[str, tuple[tuple[str, ...], str]] = {
    "T": _FLOAT,
    "S": _FLOAT,
    "weight": _FLOAT,
    "float": _FLOAT,
    "int": (INTEGERS, "an integer dtype"),
    "bool": (("bool",), "dtype bool (True = attend; cast to bool)"),
    "mask": (("bool", *FLOATS), "a bool mask (True = attend) or a float mask (added); cast to bool"),
}
"""Dtypes that arrays of each kind of input may have, and what to say where one has another."""


def broadcast(where: str, name: str, a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The common shape of two groups of axes; sizes of 1 stretch, named sizes match themselves only."""
    length = max(len(a), len(b))
    a, b = (1,) * (length - len(a)) + a, (1,) * (length - len(b)) + b
    if any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
        raise invalid(where, name, f"leading axes that broadcast with {list(a)}", list(b))
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _match(spec: OpSpec, given: Input, shape: tuple[Dim, ...], dims: dict[str, Any]) -> None:
    """Bind the names of a shape pattern; `*B` groups broadcast."""
    pattern = given.shape.split()
    group = pattern.pop(0) if pattern and pattern[0].startswith("*") else None
    if len(shape) < len(pattern) or (group is None and len(shape) != len(pattern)):
        raise invalid(
            spec.name, given.name, f"shape [{given.shape.replace(' ', ', ')}]", f"{len(shape)} axes {list(shape)}"
        )
    tail = shape[len(shape) - len(pattern) :]
    for name, size in zip(pattern, tail, strict=True):
        wanted = int(name) if name.isdigit() else dims.setdefault(name, size)
        if size != wanted:
            raise invalid(
                spec.name, given.name, f"shape [{given.shape.replace(' ', ', ')}] with {name} = {wanted}", list(shape)
            )
    if group is not None:
        lead = shape[: len(shape) - len(pattern)]
        dims[group] = broadcast(spec.name, given.name, dims[group], lead) if group in dims else lead


def _check_kind(spec: OpSpec, given: Input, what: Typed, dims: dict[str, Any]) -> None:
    if isinstance(what, QuantType):
        if given.kind not in ("quant", "weight"):
            raise invalid(spec.name, given.name, "an array", f"a QuantWeight {what}")
        return
    if given.kind == "quant":
        raise invalid(spec.name, given.name, "a QuantWeight", f"an array {what}")
    dtype = what.dtype
    allowed, expected = _DTYPES.get(given.kind, ((dtype,), ""))
    if dtype not in allowed:
        raise invalid(spec.name, given.name, expected, dtype)
    if given.kind in ("T", "weight", "S"):
        first, bound = dims.setdefault("dtype of S" if given.kind == "S" else "dtype of T", (given.name, dtype))
        if dtype != bound:
            raise invalid(spec.name, given.name, f"the dtype of {first} ({bound})", dtype)


def _check_attributes(spec: OpSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    attributes = {}
    for attribute in spec.attributes:
        value = given.get(attribute.name, attribute.default)
        if value is REQUIRED:
            raise InvalidInputError(f"{spec.name}: {attribute.name} must be given")
        expected = attribute.check(value) if value is not attribute.default else None
        if expected:
            raise invalid(spec.name, attribute.name, expected, repr(value))
        attributes[attribute.name] = value
    return attributes


def check_names(spec: OpSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by name. Refuses surplus, missing and foreign ones, with the word to use instead."""
    names = spec.signature.parameters
    for name in kwargs:
        if name in spec.refused:
            raise UnsupportedError(f"{spec.name}: {name} is not an argument here: {spec.refused[name]}")
        if name not in names:
            raise InvalidInputError(f"{spec.name}: unknown argument {name!r}.{suggest(name, names)}")
    if len(args) > len(spec.positional):
        raise InvalidInputError(
            f"{spec.name}: takes {len(spec.positional)} arguments by position ({_names(spec)}), got {len(args)}"
        )
    given = dict(zip((i.name for i in spec.positional), args, strict=False))
    for name in given.keys() & kwargs.keys():
        raise InvalidInputError(f"{spec.name}: {name} given twice, by position and by name")
    given.update(kwargs)
    for required in spec.positional:
        if given.get(required.name) is None:
            raise InvalidInputError(f"{spec.name}: {required.name} must be given (takes {_names(spec)})")
    return given


def _names(spec: OpSpec) -> str:
    return ", ".join(i.name for i in spec.positional)


def check_call(
    spec: OpSpec, types: Mapping[str, Typed | None], attributes: Mapping[str, Any], device: str = "cpu"
) -> Call:
    """The checked call.

    Args:
        types: per input its type, None or absent where it was left out.
        attributes: those given; defaults are filled in.

    Raises:
        InvalidInputError: names the op, the argument, what was expected and what came.
    """
    dims: dict[str, Any] = {}
    checked = _check_attributes(spec, attributes)
    for given in spec.inputs:
        what = types.get(given.name)
        if what is None:
            continue
        _check_kind(spec, given, what, dims)
        _match(spec, given, what.shape, dims)
    call = Call(spec.name, {i.name: types.get(i.name) for i in spec.inputs}, checked, dims, device)
    for name, what in types.items():
        if isinstance(what, QuantType):  # says the dtype where no array does
            dims.setdefault("dtype of T", (name, what.dtype))
    if spec.check is not None:
        dims.update(spec.check(call) or {})
    return call


def output_types(spec: OpSpec, call: Call) -> tuple[ArrayType, ...]:
    """Types of the outputs of a checked call."""
    return tuple(kind for output in spec.outputs for kind in output.types(call))


def output_names(spec: OpSpec, call: Call) -> tuple[str, ...]:
    """Names of the outputs of a checked call; of one that is many `parts:0`, `parts:1` and so on."""
    return tuple(
        f"{output.name}:{n}" if output.is_many else output.name
        for output in spec.outputs
        for n, _ in enumerate(output.types(call))
    )
