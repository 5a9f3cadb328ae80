"""What is on trial: a kernel of a backend, or its reference, and how numpy data gets in and out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tinyllm.conformance.example import Example, copied, map_arrays
from tinyllm.errors import UnsupportedError
from tinyllm.plugins.backend import Backend
from tinyllm.plugins.kernel import Kernel
from tinyllm.registry.by_reference import reference_function
from tinyllm.registry.registry import Registry
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.quantized import QuantWeight
from tinyllm.spec.types import Call
from tinyllm.spec.validation import output_types

BROKEN_SUPPORTS = "supports failed:"
"""Begins the reason of a kernel whose `supports` raises, or answers neither True nor with a reason."""


class Subject:
    """A kernel (None: the op's reference on the backend's namespace) as a function of numpy arrays."""

    def __init__(self, registry: Registry, backend: Backend, spec: OpSpec, kernel: Kernel | None) -> None:
        self.registry, self.backend, self.spec, self.kernel = registry, backend, spec, kernel
        self.watch: AbstractContextManager[Any] = nullcontext()
        """What each run of the kernel's own function happens in."""

    @property
    def name(self) -> str:
        """`fused`, or `reference`."""
        return self.kernel.name if self.kernel else "reference"

    @property
    def id(self) -> str:
        """`torch/sdpa:fused`."""
        return f"{self.backend.name}/{self.spec.name}:{self.name}"

    @property
    def exact(self) -> bool:
        """Whether the whole precision is asked of it."""
        return self.kernel is None or self.kernel.exact

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself, its signature checked."""
        return self.kernel.function(self.spec) if self.kernel else reference_function(self.spec, self.backend)

    def declines(self, call: Call, bound: bool = True) -> str:
        """Why it does not run a call, or nothing. bound: as part of a model, where packing weights is paid once."""
        try:
            self.registry.check_dtypes(call, self.backend)
        except UnsupportedError as error:
            return str(error)
        if self.kernel is None or self.kernel.supports is None:
            return ""
        try:
            answer = self.kernel.supports(replace(call, device=self.backend.device, bound=bound))
        except (Exception, SystemExit) as error:  # noqa: BLE001  a plugin's function may raise anything: the check of signatures tells
            return f"{BROKEN_SUPPORTS} {type(error).__name__}: {error}"
        if not isinstance(answer, bool | str):
            return f"{BROKEN_SUPPORTS} gave {answer!r}, expected True or a reason"
        return "" if answer is True else answer or "not supported"

    def native(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Copies as native arrays; inputs that kernels want on the host stay numpy."""
        host = {i.name for i in self.spec.inputs if i.host}
        return {n: copied(v) if n in host else to_native(self.backend, copied(v)) for n, v in inputs.items()}

    def pack(self, natives: Mapping[str, Any]) -> dict[str, Any]:
        """The same inputs, weights packed as the kernel wants them."""
        prepare = self.kernel.prepare_function() if self.kernel else None
        if self.kernel is None or prepare is None:
            return dict(natives)
        names = self.kernel.prepares
        return {n: prepare(value, (f"{self.spec.name}.{n}",)) if n in names else value for n, value in natives.items()}

    def run(self, example: Example, natives: Mapping[str, Any]) -> tuple[Any, ...]:
        """Native outputs on native inputs."""
        with self.backend.call_context() if self.backend.call_context else nullcontext(), np.errstate(all="ignore"):
            packed, function = self.pack(natives), self.function
            with self.watch:
                result = function(*example.positional(packed), **example.keyword(packed))
        return self.as_tuple(example, result)

    def as_tuple(self, example: Example, result: Any) -> tuple[Any, ...]:
        """The outputs in what a call gives: a tuple where the spec says several, otherwise the one thing, whatever it
        is."""
        several = len(output_types(self.spec, example.call)) != 1 or self.spec.outputs[0].shape.startswith("...")
        return result if several and isinstance(result, tuple) else (result,)

    def outputs(self, natives: tuple[Any, ...]) -> tuple[Any, ...]:
        """Native outputs as numpy."""
        return tuple(to_numpy(self.backend, a) for a in natives)

    def __call__(self, example: Example) -> tuple[Any, ...]:
        """numpy in, numpy out."""
        return self.outputs(self.run(example, self.native(example.inputs)))


def subjects(registry: Registry, backend: Backend, spec: OpSpec) -> list[Subject]:
    """Every kernel of a backend for an op; where there is none, the reference, if the backend has a namespace for
    it."""
    kernels: list[Kernel | None] = [*registry.kernels(backend.name, spec.name)]
    if not kernels and backend.xp is not None:
        kernels = [None]
    return [Subject(registry, backend, spec, kernel) for kernel in kernels]


def to_native(backend: Backend, value: Any) -> Any:
    """numpy to native; anything else (a word where an array should be) as it is."""
    return map_arrays(value, lambda a: backend.from_numpy(a) if isinstance(a, np.ndarray) else a)


def to_numpy(backend: Backend, value: Any) -> Any:
    """Native to numpy, host arrays as they are."""
    if isinstance(value, QuantWeight):
        return value.with_arrays({name: to_numpy(backend, array) for name, array in value.arrays.items()})
    return value if isinstance(value, np.ndarray) else backend.to_numpy(value)
