"""One op call: check it, find its backend and kernel, convert what is numpy, run. Calls of a known form skip the
deciding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyllm.errors import InvalidInputError
from tinyllm.plugins.backend import Backend, each_array, on_host
from tinyllm.registry.bound_kernel import BoundKernel, Run
from tinyllm.registry.choice import Choice
from tinyllm.registry.selection import Selection, selected
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantWeight, Scheme
from tinyllm.spec.types import ArrayType, Call
from tinyllm.spec.validation import Typed, check_call, check_names

MOST_PLANS = 4096
"""Known call forms kept per op; past it all are forgotten, so that varying shapes cannot fill memory."""


class Decides(Protocol):
    """Who finds backends and kernels: a `Registry`."""

    def select(self, argument: str | None = None) -> Selection: ...
    def asked(self, argument: str | None = None) -> Selection | None: ...
    def backend(self, name: str) -> Backend: ...
    def backend_for(self, op: str, selection: Selection) -> Backend: ...
    def owner(self, array: Any) -> str | None: ...
    def choose(self, call: Call, backend: Backend) -> Choice: ...
    def bind(self, choice: Choice) -> BoundKernel: ...
    def check_scheme(self, where: str, name: str, scheme: Scheme) -> None: ...
    def check_weight(self, where: str, name: str, weight: QuantWeight, backend: Backend) -> None: ...


@dataclass
class Plan:
    """What was decided for calls of one form."""

    call: Call
    run: Run
    backend: Backend
    numpy_out: bool


class Dispatcher:
    """Runs calls of one op."""

    def __init__(self, spec: OpSpec, registry: Decides) -> None:
        self.spec = spec
        self.registry = registry
        self._plans: dict[Any, Plan] = {}
        self._integers = tuple(i.name for i in spec.keyword if i.kind == "int")
        self._attributes = frozenset(a.name for a in spec.attributes)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], backend: str | None) -> Any:
        """`kwargs` is the caller's to give away: it is changed."""
        for name in self._integers:  # a plain number is an array without axes, so that one plan serves all numbers
            if type(kwargs.get(name)) is int:
                kwargs[name] = np.asarray(kwargs[name])
        try:
            key: Any = self._key(args, kwargs, backend)
            plan = self._plans.get(key)
        except TypeError:  # something unhashable, such as a list: no array, and validation will say so
            plan, key = None, None
        if plan is None:
            plan = self._decide(args, kwargs, backend)
            if key is not None:
                if len(self._plans) >= MOST_PLANS:
                    self._plans.clear()
                self._plans[key] = plan
        if self.spec.check_values is not None:
            self.spec.check_values(plan.call, self._host_values(plan, args, kwargs))
        plan.backend.check_process()
        result = plan.run(args, kwargs)
        return each_array(plan.backend.to_numpy, result) if plan.numpy_out else result

    def _key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], backend: str | None) -> tuple[Any, ...]:
        """All that decisions depend on."""
        parts = [backend, selected()]
        for value in args:
            parts.append(_form(value))
        for name, value in kwargs.items():
            parts += (name, _plain(value) if name in self._attributes else _form(value))
        return tuple(parts)

    def _decide(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], argument: str | None) -> Plan:
        spec = self.spec
        arguments = check_names(spec, args, kwargs)
        arrays = {i.name: arguments[i.name] for i in spec.inputs if arguments.get(i.name) is not None}
        attributes = {a.name: arguments[a.name] for a in spec.attributes if a.name in arguments}
        backend, native = self._backend(arrays, argument)
        types = {name: self._type(name, value, backend) for name, value in arrays.items()}
        call = check_call(spec, types, attributes, backend.device)
        for name, value in attributes.items():
            if isinstance(value, Scheme):
                self.registry.check_scheme(spec.name, name, value)
        bound = self.registry.bind(self.registry.choose(call, backend))
        positions = {i.name: n for n, i in enumerate(spec.positional) if n < len(args)}
        steps = {positions.get(name, name): bound.converter(name, value) for name, value in arrays.items()}
        return Plan(call, bound.caller({n: step for n, step in steps.items() if step}), backend, not native)

    def _backend(self, arrays: Mapping[str, Any], argument: str | None) -> tuple[Backend, bool]:
        """The backend of the native arrays; where all are numpy, the selected one. The flag says whether any is
        native."""
        owners: dict[str, str] = {}
        for name, value in arrays.items():
            for part in value.arrays.values() if isinstance(value, QuantWeight) else (value,):
                if not isinstance(part, (np.ndarray, np.generic)):
                    owners[self._owner(name, part)] = name
        if len(owners) > 1:
            (a, first), (b, second) = list(owners.items())[:2]
            raise InvalidInputError(f"{self.spec.name}: arrays of two libraries: {first} is of {a}, {second} of {b}")
        if not owners:
            return self.registry.backend_for(self.spec.name, self.registry.select(argument)), False
        selection = self.registry.asked(argument)
        wanted = selection.for_op(self.spec.name) if selection else None
        owner = next(iter(owners))
        if argument is not None and wanted and wanted.partition(":")[0] != owner:
            raise InvalidInputError(
                f"{self.spec.name}: backend {wanted!r} was asked for, but {owners[owner]} is an array of {owner}"
            )
        same = wanted and wanted.partition(":")[0] == owner
        return self.registry.backend(wanted if wanted and same else owner), True

    def _owner(self, name: str, value: Any) -> str:
        owner = self.registry.owner(value)
        if owner is None:
            got = type(value).__name__
            raise InvalidInputError(
                f"{self.spec.name}: {name}: expected a numpy array or an array of a backend, got {got}"
            )
        return owner

    def _type(self, name: str, value: Any, backend: Backend) -> Typed:
        if isinstance(value, QuantWeight):
            self.registry.check_weight(self.spec.name, name, value, backend)
            return value.type
        dtype = str(value.dtype) if isinstance(value, (np.ndarray, np.generic)) else backend.dtype_name(value)
        return ArrayType(tuple(value.shape), dtype)

    def _host_values(self, plan: Plan, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(zip((i.name for i in self.spec.positional), args, strict=False)) | dict(kwargs)
        names = [i.name for i in self.spec.inputs if i.kind == "int" and values.get(i.name) is not None]
        return {name: on_host(plan.backend, values[name]) for name in names}


def _form(value: Any) -> Any:
    """What decisions depend on in an array, a `QuantWeight`, or whatever was given in its place."""
    if value.__class__ is QuantWeight:
        return (value.type, *((name, _form(array)) for name, array in value.arrays.items()))
    try:
        return value.__class__, value.shape, value.dtype
    except AttributeError:
        return _plain(value)


def _plain(value: Any) -> Any:
    """A plain argument with its class: 1, 1.0 and True are equal and not the same."""
    if value.__class__ is tuple:
        return tuple, tuple([_plain(v) for v in value])
    return value.__class__, value
