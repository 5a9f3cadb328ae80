"""What is on trial: a kernel of a backend, or its reference, and how numpy data gets in and out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tinyllm.conformance.bounds import HALVES
from tinyllm.conformance.example import Example, copied, map_arrays
from tinyllm.errors import UnsupportedError
from tinyllm.plugins.backend import Backend
from tinyllm.plugins.kernel import EVERY_CPU, Kernel
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.choice import Candidate, Choice, Form, candidate, forms
from tinyllm.registry.registry import Registry
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.types import Call
from tinyllm.spec.validation import output_types

BROKEN_SUPPORTS = "supports failed:"
"""Begins the reason of a kernel whose `supports` raises, or answers neither True nor with a reason."""


class Subject:
    """A kernel (None: the op's composition or reference on the backend's namespace) as a function of numpy arrays."""

    def __init__(
        self, registry: Registry, backend: Backend, spec: OpSpec, kernel: Kernel | None, before: Sequence[Kernel] = ()
    ) -> None:
        """before: kernels whose calls do not come to the reference."""
        self.registry, self.backend, self.spec, self.kernel, self.before = registry, backend, spec, kernel, before
        self.host = kernel.host if kernel else spec.host
        """Inputs that stay numpy."""
        self.watch: AbstractContextManager[Any] = nullcontext()
        """What each run of the kernel's own function happens in."""
        self._decided: dict[tuple[int, bool], tuple[Call, Candidate | None, dict[Form, Call]]] = {}
        """What was decided of each call that was asked about; with the call, so that no other gets its id."""

    @property
    def name(self) -> str:
        """`fused`, or `composed` or `reference`."""
        return self.kernel.name if self.kernel else self.by

    @property
    def id(self) -> str:
        """`torch/sdpa:fused`."""
        return f"{self.backend.name}/{self.spec.name}:{self.name}"

    @property
    def exact(self) -> bool:
        """Whether the whole precision is asked of it."""
        return self.kernel is None or self.kernel.exact

    @property
    def by(self) -> str:
        """What runs where there is no kernel: `composed` or `reference`."""
        return "kernel" if self.kernel else "composed" if self.spec.composed else "reference"

    @cached_property
    def lender(self) -> str:
        """The backend that lends this kernel, which is of its package: it runs there as well, on this machine. Backends
        of one package lend each other nothing, or their kernels would be held to everything nowhere."""
        if self.kernel is None:
            return ""
        package, plugins = _package(self.kernel.load), self.registry.plugins.backends
        lenders = [name for name, plugin in plugins.items() if _package(plugin.load) == package]
        if self.backend.name in lenders:
            return ""
        return next((name for name in lenders if self._runs_on(name)), "")

    def _runs_on(self, name: str) -> bool:
        """Whether a backend can run here, and has the same function on the device that it takes unasked."""
        probe, op = self.registry.probe(name), self.spec.name
        shared = self.registry.kernels(EVERY_CPU, op) if probe.devices[:1] == ("cpu",) else []
        there = (*self.registry.kernels(name, op), *shared)
        return probe.available and any(self.kernel is not None and each.load == self.kernel.load for each in there)

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself, its signature checked."""
        call = Call(self.spec.name, {}, {})
        return self.registry.bind(Choice(call.op, self.backend, self.kernel, (), "on trial", call, by=self.by)).function

    def _candidate(self, call: Call, weights_packed: bool) -> tuple[Candidate | None, dict[Form, Call]]:
        key = id(call), weights_packed
        if key not in self._decided:
            ways = forms(self.spec, replace(call, device=self.backend.device, weights_packed=weights_packed))
            left_out = self.registry.left_out
            taken = candidate(self.spec, self.kernel, ways, True, left_out) if self.kernel else None
            self._decided[key] = call, taken, ways
        return self._decided[key][1:]

    def declines(self, call: Call, weights_packed: bool = True) -> str:
        """Why it does not run a call, or nothing. weights_packed: as part of a model, where packing is paid once."""
        try:
            self.registry.check_dtypes(call, self.backend)
        except UnsupportedError as error:
            return str(error)
        taken, ways = self._candidate(call, weights_packed)
        for kernel in self.before:
            if not candidate(self.spec, kernel, ways, True, self.registry.left_out).reason:
                return f"{kernel.id} takes it"
        return taken.reason if taken else ""

    def bind(self, call: Call) -> BoundKernel:
        """The kernel, made ready for a call as a bound program has it."""
        taken, ways = self._candidate(call, True)
        form = taken.form if taken else Form.AS_IT_IS
        return self.registry.bind(Choice(call.op, self.backend, self.kernel, (), "on trial", ways[form], form, self.by))

    def seen(self, example: Example) -> Example:
        """The example as the kernel sees it: with a quantized weight that is expanded for it the matrix that it stands
        for, in the call's dtype, unless the kernel packs it."""
        weights = {n: v for n, v in example.inputs.items() if isinstance(v, QuantWeight) and v.dtype in HALVES}
        if not weights or self.kernel is None:
            return example
        bound = self.bind(example.call)
        if bound.choice.form is not Form.EXPANDED:
            return example
        given = {n: v for n, v in weights.items() if n not in bound.packed}
        return example.with_inputs(
            **{n: dense(np, v, np.float32).astype(numpy_dtype(v.dtype)) for n, v in given.items()}
        )

    def native(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Copies as native arrays; inputs that the kernel wants on the host stay numpy."""
        return {n: copied(v) if n in self.host else to_native(self.backend, copied(v)) for n, v in inputs.items()}

    def run(self, example: Example, natives: Mapping[str, Any]) -> tuple[Any, ...]:
        """Native outputs on native inputs."""
        bound = self.bind(example.call)
        with np.errstate(all="ignore"):
            ready = bound.ready(natives)
            with self.watch:
                result = bound(*example.positional(ready), **example.keyword(ready))
        return self.as_tuple(example, result)

    def as_tuple(self, example: Example, result: Any) -> tuple[Any, ...]:
        """The outputs in what a call gives: a tuple where the spec says several, otherwise the one thing, whatever it
        is."""
        several = len(output_types(self.spec, example.call)) != 1 or self.spec.gives_many
        return result if several and isinstance(result, tuple) else (result,)

    def outputs(self, natives: tuple[Any, ...]) -> tuple[Any, ...]:
        """Native outputs as numpy."""
        return tuple(to_numpy(self.backend, a) for a in natives)

    def __call__(self, example: Example) -> tuple[Any, ...]:
        """numpy in, numpy out."""
        return self.outputs(self.run(example, self.native(example.inputs)))


def subjects(registry: Registry, backend: Backend, spec: OpSpec) -> list[Subject]:
    """Every kernel of a backend for an op; where there is none, or none takes a call and the backend says so, the
    reference, if the backend has a namespace for it."""
    own = registry.kernels(backend.name, spec.name)
    shared = registry.kernels(EVERY_CPU, spec.name) if backend.device == "cpu" else []
    found = [Subject(registry, backend, spec, kernel) for kernel in (*own, *shared)]
    if backend.xp is not None and (not own or backend.by_reference):
        found.append(Subject(registry, backend, spec, None, own))
    return found


def _package(load: object) -> str:
    """The top-level package of a function, or of the path of one."""
    path = load if isinstance(load, str) else str(getattr(load, "__module__", ""))
    return path.partition(":")[0].partition(".")[0]


def to_native(backend: Backend, value: Any) -> Any:
    """numpy to native; anything else (a word where an array should be) as it is."""
    return map_arrays(value, lambda a: backend.from_numpy(a) if isinstance(a, np.ndarray) else a)


def to_numpy(backend: Backend, value: Any) -> Any:
    """Native to numpy, host arrays as they are."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: to_numpy(backend, array) for name, array in value.arrays.items()})
    return value if isinstance(value, np.ndarray) else backend.to_numpy(value)
