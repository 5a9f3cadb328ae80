"""An op at given shapes, as FlashInfer-Bench defines a kernel: axes that are constant or vary, inputs, outputs.

The names of inputs are the op's own, and `op_type` is the op's name. A float attribute that is not at its default is a
scalar input; every other attribute is part of the definition and stands in its tags, `attribute:causal=true`, settings
such as those of a rope as an object of their class and fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import Any

from tinyllm.errors import UnsupportedError
from tinyllm.spec.attribute_json import encoded
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.scheme import QuantType
from tinyllm.spec.types import ArrayType, Call, Dim

FLOATS = ("float32", "float16", "bfloat16")
DTYPES = (*FLOATS, "int64", "int32", "int16", "int8", "bool")
"""Dtypes of the schema that arrays of ours have."""
ATTRIBUTE = "attribute:"
"""Begins the tag of an attribute."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: the names of its axes, None for a scalar."""

    shape: tuple[str, ...] | None
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """As the schema writes it."""
        return {"shape": None if self.shape is None else list(self.shape), "dtype": self.dtype}


@dataclass(frozen=True)
class Definition:
    """What a kernel is to do.

    call: checked, sizes that vary by their names. axes: per axis its size, or the name of the size that varies with it;
    two axes of one name are always alike. scalars: the attributes that are inputs.
    """

    name: str
    spec: OpSpec
    call: Call
    axes: Mapping[str, Dim]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    scalars: tuple[str, ...]

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Those that are part of it, the defaults among them left out."""
        parameters = self.spec.signature.parameters
        return {
            n: v
            for n, v in self.call.attributes.items()
            if n not in self.scalars and not _same(v, parameters[n].default)
        }

    @cached_property
    def constraints(self) -> tuple[str, ...]:
        """Which axes are always alike: `B0 == C0`."""
        first: dict[Dim, str] = {}
        pairs = [(first.setdefault(size, axis), axis) for axis, size in self.axes.items() if isinstance(size, str)]
        return tuple(f"{a} == {b}" for a, b in pairs if a != b)

    def declines(self, call: Call) -> str:
        """Why a call is not one of those that it defines; nothing where it is. Touches no data."""
        sizes: dict[str, Dim] = {}
        for name, own in self.call.inputs.items():
            given = call.inputs.get(name)
            if own is None or given is None:
                if own is not given:
                    return f"{self.name}: {name}: {'an input of the call alone' if own is None else 'left out'}"
                continue
            if isinstance(given, QuantType) or not isinstance(own, ArrayType):
                return f"{self.name}: {name}: a quantized weight, where an array is defined"
            wanted = [
                n if isinstance(n, int) else sizes.setdefault(n, s)
                for n, s in zip(own.shape, given.shape, strict=False)
            ]
            if len(own.shape) != len(given.shape) or wanted != list(given.shape) or given.dtype != own.dtype:
                return f"{self.name}: {name}: {own} is defined, not {given}"
        for name, value in call.attributes.items():
            own_value: Any = self.call.attributes[name]
            if type(value) is not float if name in self.scalars else not _same(value, own_value):
                expected = "a number" if name in self.scalars else repr(own_value)
                return f"{self.name}: {name}: {expected} is defined, not {value!r}"
        return ""

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The size of each axis that varies, told by the shapes of the inputs."""
        named = (
            (axis, size)
            for name, tensor in self.inputs.items()
            if tensor.shape is not None
            for axis, size in zip(tensor.shape, shapes[name], strict=True)
        )
        return {axis: int(size) for axis, size in named if isinstance(self.axes[axis], str)}

    def shape(self, tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of an input or output, given the size of each axis that varies."""
        pairs = ((axis, self.axes[axis]) for axis in tensor.shape or ())
        return tuple(sizes[axis] if isinstance(size, str) else size for axis, size in pairs)


def _same(a: Any, b: Any) -> bool:
    """Equal and of one kind: True is not 1."""
    return type(a) is type(b) and bool(a == b)


def define(spec: OpSpec, call: Call) -> Definition:
    """The definition of a checked call, whose named sizes vary.

    Raises:
        UnsupportedError: the schema cannot say it; tells why.
    """
    axes: dict[str, Dim] = {}
    inputs = {i.name: _input(i.name, i.shape, call, axes) for i in spec.inputs if call.inputs.get(i.name) is not None}
    _check_values(spec, call)
    known = spec.signature.parameters
    scalars = tuple(n for n, v in call.attributes.items() if isinstance(v, float) and not _same(v, known[n].default))
    inputs |= {name: Tensor(None, "float32") for name in scalars}
    outputs = _outputs(spec, call, axes)
    for name, tensor in (inputs | outputs).items():
        if tensor.dtype not in DTYPES:
            raise UnsupportedError(f"{name} is of {tensor.dtype}, which the schema does not have")
    made = Definition("", spec, call, axes, inputs, outputs, scalars)
    return Definition(_name(made), spec, call, axes, inputs, outputs, scalars)


def _check_values(spec: OpSpec, call: Call) -> None:
    """Attributes are numbers, words, lists of them, or settings that are made of those."""
    for name, value in call.attributes.items():
        try:
            json.dumps(encoded(value))
        except TypeError as error:
            raise UnsupportedError(f"{name} is an object of {type(value).__name__}") from error


def _input(name: str, pattern: str, call: Call, axes: dict[str, Dim]) -> Tensor:
    kind = call.inputs[name]
    if not isinstance(kind, ArrayType):
        raise UnsupportedError(f"{name} is a quantized weight, which is no tensor")
    return Tensor(_axes(name, pattern, kind.shape, axes), kind.dtype)


def _axes(name: str, pattern: str, shape: tuple[Dim, ...], axes: dict[str, Dim]) -> tuple[str, ...]:
    """Names for the axes of a shape: those of the pattern, the leading ones numbered (`B0`, `B1`). Where an axis of the
    name has another size, the name of the array comes before it."""
    names = pattern.split()
    if names and names[0].startswith("*"):
        lead = len(shape) - len(names) + 1
        names = [f"{names[0][1:]}{n}" for n in range(lead)] + names[1:]
    found = []
    for axis, size in zip(names, shape, strict=True):
        own = f"n{axis}" if axis.isdigit() else axis
        if axes.setdefault(own, size) != size:
            own = f"{name}_{own}"
            axes.setdefault(own, size)
        found.append(own)
    return tuple(found)


def _outputs(spec: OpSpec, call: Call, axes: dict[str, Dim]) -> dict[str, Tensor]:
    """Outputs by names that no input has."""
    found: dict[str, Tensor] = {}
    for output in spec.outputs:
        for number, kind in enumerate(output.types(call)):
            name = f"{output.name}{number}" if output.is_many else output.name
            name = f"new_{name}" if call.inputs.get(name) is not None else name
            if kind.dtype == "quant":
                raise UnsupportedError(f"{name} is a quantized weight, which is no tensor")
            found[name] = Tensor(_output_axes(name, output, kind.shape, axes), kind.dtype)
    return found


def _output_axes(name: str, output: Output, shape: tuple[Dim, ...], axes: dict[str, Dim]) -> tuple[str, ...]:
    """As of an input; an axis that varies has to be one of an input, which tells its size."""
    known = dict(axes)
    plain = "" if output.shape.startswith(("?", ".")) else output.shape
    names = _axes(name, plain or " ".join(f"{name}_{n}" for n in range(len(shape))), shape, known)
    told = {size: axis for axis, size in reversed(axes.items()) if isinstance(size, str)}
    found = tuple(
        told.get(size, axis) if isinstance(size, str) and axis not in axes else axis
        for axis, size in zip(names, shape, strict=True)
    )
    for axis in found:
        if axis not in axes:
            if isinstance(known[axis], str):
                raise UnsupportedError(f"{name}: no input tells the size of {axis}")
            axes[axis] = known[axis]
    return found


def _name(definition: Definition) -> str:
    """`rms_norm_d576_float32`: op, constant axes of the inputs past 1, optional inputs, attributes, dtype."""
    axes = dict.fromkeys(axis for tensor in definition.inputs.values() for axis in tensor.shape or ())
    sizes = {axis: definition.axes[axis] for axis in axes}
    words = [f"{axis}{size}" for axis, size in sizes.items() if isinstance(size, int) and size != 1]
    words += [i.name for i in definition.spec.keyword if i.name in definition.inputs]
    words += [_word(name, value) for name, value in definition.attributes.items()]
    typed = definition.call.dims.get("dtype of T")
    dtype = typed[1] if typed else next(iter(definition.inputs.values())).dtype
    plain = re.sub(r"[^a-z0-9_.]+", "-", "_".join([definition.spec.name, *dict.fromkeys(words), dtype]).lower())
    return plain.replace("-_", "_")


def _word(name: str, value: Any) -> str:
    """Of settings the name alone: they are many, and stand in the tags."""
    return name if value is True or is_dataclass(value) else f"{name}{value}"
