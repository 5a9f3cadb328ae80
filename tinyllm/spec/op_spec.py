"""OpSpec: everything that is said about an op, said once. Validation, tests, benchmarks and docs are derived from
it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from tinyllm.spec.cases import BadInput, Case
from tinyllm.spec.outputs import Output
from tinyllm.spec.scheme import Scheme
from tinyllm.spec.types import Call

SPEC_VERSION = 4
"""Raised when a change to specs or kernels breaks plugins; a plugin states the version it was written for."""


@dataclass(frozen=True)
class Input:
    """An array argument. `shape` is a pattern such as `"*B L D"`: `*B` is any number of leading axes (groups of one
    name broadcast), a name is a size bound at its first use, a number is itself.

    kind: "T" float, all inputs of kind T of one dtype; "S" likewise, of a dtype of its own: what is stored; "float" any
    float; "int" any integer; "bool"; "mask" bool or any float; "quant" a `QuantWeight`; "weight" an array of kind T or
    a `QuantWeight`.
    """

    name: str
    shape: str
    kind: str = "T"
    optional: bool = False
    about: str = ""


@dataclass(frozen=True)
class Attribute:
    """A plain argument. `check(value)` gives None if it is fine, otherwise what was expected."""

    name: str
    default: Any
    check: Callable[[Any], str | None]
    about: str = ""


REQUIRED = inspect.Parameter.empty
"""The default of an attribute that must be given."""


@dataclass(frozen=True)
class OpSpec:
    """An op. Kernels and references take the inputs that are not optional by position, all else by keyword.

    reference(xp, *inputs, **attributes): the formula over the functions of `reference_profile`, computed in the dtype
        that its inputs come in (the caller casts). numpy in float64 makes it the oracle.
    check(call): conditions between arguments, raising `InvalidInputError`; may return further dims for the outputs.
    check_values(call, values): conditions on data (indices in range), on host arrays, at each call.
    flops(call), bytes(call): cost of one call; bytes None means inputs read once and outputs written once.
    scale(reference_inputs, attributes, outputs): per output the size that rounding errors are relative to, those of the
        inner dtype: float32, for float64 inputs float64. None means |output|. inner_scale(the same): a size more.
    sums(the same, scale, eps): `sqrt(n) * size` for the sums of n terms behind an output, `size` being what an error of
        the sum's own size does to the output, often its scale; eps is that of the inner dtype. None: there are none. In
        float64 the reference's sums err as much as a kernel's.
    tolerance: the factor c in `|a - r| <= c * eps(inner dtype) * (scale + inner_scale)`, r rounded to 16 bits where the
        output is; 0 means exact. How bounds grow with sums, tinyllm/conformance/bounds.py says.
    consumes: inputs that the op may overwrite.
    host: integer inputs that the reference reads as numpy arrays, because they decide what it does.
    """

    name: str
    summary: str
    formula: str
    source: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    reference: Callable[..., Any]
    flops: Callable[[Call], int]
    attributes: tuple[Attribute, ...] = ()
    cases: tuple[Case, ...] = ()
    bad_inputs: tuple[BadInput, ...] = ()
    check: Callable[[Call], Mapping[str, Any] | None] | None = None
    check_values: Callable[[Call, Mapping[str, Any]], None] | None = None
    bytes: Callable[[Call], int] | None = None
    scale: Callable[..., Any] | None = None
    inner_scale: Callable[..., Any] | None = None
    sums: Callable[..., Any] | None = None
    tolerance: float = 4.0
    consumes: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Names other libraries use, and what to write instead."""
    more_cases: str = ""
    """`"module:function"`, giving further cases: they are many, so they are made when somebody asks for them."""
    scheme_cases: str = ""
    """`"module:function"`: the cases of a `Scheme`, where an input may be a quantized weight."""
    composed: str = ""
    """`"module:function"`: the op's meaning in other ops, `composed(ops, *inputs, **attributes)`. A backend without a
    kernel for the op runs it so."""
    unread: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] | None = None
    """`unread(inputs, attributes)`: per input a bool array of its shape, True where no output depends on what stands
    there, so that NaN and inf do no harm. numpy only; inputs that are read as a whole are left out."""

    @cached_property
    def all_cases(self) -> tuple[Case, ...]:
        """`cases` and `more_cases`; their ids are distinct."""
        return (*self.cases, *_made(self.more_cases))

    @cached_property
    def gives_many(self) -> bool:
        """Whether it gives a tuple of as many outputs as a call asks for, also where that is one."""
        return any(output.is_many for output in self.outputs)

    def cases_of(self, scheme: Scheme) -> tuple[Case, ...]:
        """The cases that hold kernels to a scheme."""
        return _made(self.scheme_cases, scheme)

    @cached_property
    def positional(self) -> tuple[Input, ...]:
        """Inputs that must be given."""
        return tuple(i for i in self.inputs if not i.optional)

    @cached_property
    def keyword(self) -> tuple[Input, ...]:
        """Inputs that may be left out; given by keyword."""
        return tuple(i for i in self.inputs if i.optional)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The signature of the public callable and of every kernel."""
        kinds = inspect.Parameter
        positional = [kinds(i.name, kinds.POSITIONAL_OR_KEYWORD) for i in self.positional]
        keyword = [kinds(i.name, kinds.KEYWORD_ONLY, default=None) for i in self.keyword]
        plain = [kinds(a.name, kinds.KEYWORD_ONLY, default=a.default) for a in self.attributes]
        return inspect.Signature(positional + keyword + plain)


@cache
def _made(path: str, *schemes: Scheme) -> tuple[Case, ...]:
    """The cases that the function of a path `"module:function"` gives; none without a path."""
    module, _, name = path.partition(":")
    return tuple(getattr(importlib.import_module(module), name)(*schemes)) if path else ()
