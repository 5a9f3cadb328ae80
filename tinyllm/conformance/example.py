"""A case in a dtype: its inputs as they are given to a backend, and what the float64 reference says of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import ml_dtypes
import numpy as np

from tinyllm.spec.cases import Case, Draw
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import ArrayType, Call
from tinyllm.spec.validation import check_call

DTYPES = ("float32", "bfloat16", "float16", "float64")
SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}
"""Dtypes as the ids of checks write them."""


def eps(dtype: str) -> float:
    """The distance from 1 to the next number."""
    return float(_info(dtype).eps)


def tiny(dtype: str) -> float:
    """The smallest normal number."""
    return float(_info(dtype).smallest_normal)


def _info(dtype: str) -> Any:
    return ml_dtypes.finfo(numpy_dtype(dtype))  # type: ignore[no-untyped-call]


def dtypes_of(spec: OpSpec) -> tuple[str, ...]:
    """The dtypes to test an op in: one, where nothing in the op depends on it."""
    typed = any(i.kind in ("T", "weight", "quant") for i in spec.inputs)
    return DTYPES if typed else DTYPES[:1]


def map_arrays(value: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of an array, or of each array in a `QuantWeight`; anything else as it is."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: change(array) for name, array in value.arrays.items()})
    return change(value) if hasattr(value, "shape") and hasattr(value, "dtype") else value


def arrays_in(value: Any) -> list[Any]:
    """The arrays of an output: itself, those in a `QuantWeight`, those of each part of a tuple."""
    if isinstance(value, tuple):
        return [array for part in value for array in arrays_in(part)]
    return list(value.arrays.values()) if isinstance(value, QuantWeight) else [value]


def widen(value: Any) -> Any:
    """Floats (of `ml_dtypes` too) as float64, all else as it is; a quantized weight gives its numbers in float64."""
    wide = map_arrays(value, lambda a: a.astype(np.float64) if str(a.dtype).startswith(("float", "bfloat")) else a)
    return replace(wide, dtype="float64") if isinstance(wide, QuantWeight) else wide


def copied(value: Any) -> Any:
    """A copy that a kernel cannot mistake for the original."""
    return map_arrays(value, lambda a: a.copy())


def rounded(value: Any, kind: str, dtype: str) -> Any:
    """A drawn value as a test gives it: inputs of kind T and masks in the test's dtype, other floats in float32 or
    better; a quantized weight gives its numbers in the test's dtype."""
    if isinstance(value, QuantWeight):
        return replace(value, dtype=dtype)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    with np.errstate(all="ignore"):
        return value.astype(numpy_dtype(rounded_dtype(kind, dtype)))


def rounded_dtype(kind: str, dtype: str) -> str:
    """The dtype of a drawn input of a kind in a test's dtype."""
    return "float32" if kind == "float" and dtype != "float64" else dtype


def call_in(call: Call, spec: OpSpec, case: Case, was: str, dtype: str) -> Call:
    """The call of a case in another dtype than it was drawn in."""
    types: dict[str, Any] = {}
    for i in spec.inputs:
        kind, draw = call.inputs.get(i.name), case.inputs.get(i.name)
        kept = isinstance(draw, Draw) and draw.dtype
        if isinstance(kind, QuantType) or (kind and not kept and kind.dtype == rounded_dtype(i.kind, was)):
            kind = replace(kind, dtype=dtype if isinstance(kind, QuantType) else rounded_dtype(i.kind, dtype))
        if kind is not None:
            types[i.name] = kind
    return check_call(spec, types, case.attributes)


def draw_inputs(spec: OpSpec, name: str, inputs: Mapping[str, Any], dtype: str, seed: int = 0) -> dict[str, Any]:
    """Inputs as numpy arrays that nobody may write to and `QuantWeight`s of such, the same at each run of a seed: it is
    mixed with the op's and the case's names."""
    rng = np.random.default_rng([zlib.crc32(f"{spec.name}/{name}".encode()), seed])
    kinds = {i.name: i.kind for i in spec.inputs}
    made = {n: given.make(rng) if isinstance(given, Draw) else given for n, given in inputs.items()}
    kept = {n: given.dtype for n, given in inputs.items() if isinstance(given, Draw)}
    return {
        n: _frozen(value.astype(numpy_dtype(kept[n])) if kept.get(n) else rounded(value, kinds.get(n, ""), dtype))
        for n, value in made.items()
    }


def _frozen(value: Any) -> Any:
    """Views that are read alone: examples are kept, and shared by all that are tried on them."""

    def read_only(array: Any) -> Any:
        view = np.asarray(array).view()
        view.flags.writeable = False
        return view

    return map_arrays(value, read_only)


@dataclass
class Example:
    """A call with its data. Outputs, scales and `call` are found when asked for, and kept."""

    spec: OpSpec
    case: str
    dtype: str
    inputs: dict[str, Any]
    attributes: dict[str, Any]
    units: dict[bool, list[tuple[Any, Any]]] = field(default_factory=dict)
    """What `bounds_of` found for exact kernels and for others: it is the same for all of them."""

    @cached_property
    def call(self) -> Call:
        """The call as validation sees it."""
        types = {
            n: v.type if isinstance(v, QuantWeight) else ArrayType(v.shape, str(v.dtype))
            for n, v in self.inputs.items()
        }
        return check_call(self.spec, types, self.attributes)

    @cached_property
    def wide(self) -> dict[str, Any]:
        """The inputs, their floats in float64."""
        return {name: widen(value) for name, value in self.inputs.items()}

    @cached_property
    def expected(self) -> tuple[Any, ...]:
        """What the reference gives in float64, run by numpy."""
        with np.errstate(all="ignore"):
            result = self.spec.reference(np, *self.positional(self.wide), **self.keyword(self.wide))
        return result if isinstance(result, tuple) else (result,)

    @cached_property
    def scales(self) -> tuple[Any, ...]:
        """Per output the size that rounding errors are relative to; None: its own."""
        return self._sizes(self.spec.scale)

    @cached_property
    def inner_scales(self) -> tuple[Any, ...]:
        """Per output the size that errors of the inner dtype are relative to; None: there are none of note."""
        return self._sizes(self.spec.inner_scale)

    @cached_property
    def sums(self) -> tuple[Any, ...]:
        """Per output what the errors of long sums are relative to; None: there are none."""
        scales = self.scales if len(self.scales) > 1 else self.scales[0]
        return self._sizes(self.spec.sums and partial(self.spec.sums, scale=scales, eps=eps(self.inner_dtype)))

    def _sizes(self, model: Callable[..., Any] | None) -> tuple[Any, ...]:
        if model is None:
            return (None,) * len(self.expected)
        outputs = self.expected if len(self.expected) > 1 else self.expected[0]
        with np.errstate(all="ignore"):
            sizes = model(self.wide, self.call.attributes, outputs)
        return sizes if isinstance(sizes, tuple) else (sizes,) * len(self.expected)

    @property
    def inner_dtype(self) -> str:
        """What kernels must compute in at least."""
        return "float64" if any(str(getattr(v, "dtype", "")) == "float64" for v in self.inputs.values()) else "float32"

    @cached_property
    def unread(self) -> dict[str, Any]:
        """Per input, where that is some: True at elements that no output depends on."""
        if self.spec.unread is None:
            return {}
        found = self.spec.unread(self.wide, self.call.attributes)
        return {name: where for name, where in found.items() if np.any(where)}

    def positional(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Inputs as a kernel takes them by position."""
        return [inputs[i.name] for i in self.spec.positional]

    def keyword(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs and attributes as a kernel takes them by name."""
        return {i.name: inputs[i.name] for i in self.spec.keyword if i.name in inputs} | self.attributes

    def with_inputs(self, **changed: Any) -> Example:
        """The same call on other data."""
        return Example(self.spec, self.case, self.dtype, self.inputs | changed, self.attributes)


def make_example(spec: OpSpec, case: Case, dtype: str, seed: int = 0) -> Example:
    """A case in a dtype."""
    return Example(spec, case.id, dtype, draw_inputs(spec, case.id, case.inputs, dtype, seed), dict(case.attributes))
