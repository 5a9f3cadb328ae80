"""BoundKernel: a choice made ready for its call. Nobody else packs weights, converts inputs or opens contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tinyllm.plugins.backend import Backend, each_array, on_host
from tinyllm.plugins.kernel import Prepare
from tinyllm.registry.choice import Choice, Form
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType, QuantWeight

Run = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class BoundKernel:
    """A function on inputs that are ready: native arrays, packed weights, host arrays where the kernel wants them.

    `converter` says what makes an input ready; calling the object runs the function in the backend's context.
    expanded: gives the matrix that a weight stands for, as a native array.
    """

    def __init__(
        self,
        spec: OpSpec,
        choice: Choice,
        function: Callable[..., Any],
        expanded: Callable[[QuantWeight, Backend], Any],
    ) -> None:
        self.spec, self.choice, self.backend, self.call = spec, choice, choice.backend, choice.call
        self._expanded = expanded
        self._context = self.backend.call_context or nullcontext
        kernel = choice.kernel
        self._numpy = kernel is not None and kernel.arrays == "host"
        self.host = frozenset(kernel.host if kernel else spec.host if choice.by == "reference" else ())
        """Inputs that the function takes as numpy arrays."""
        self.packed = frozenset(kernel.prepares) if kernel and kernel.prepare is not None else frozenset()
        """Inputs that `prepare` packs."""
        self.function = self._through_numpy(function) if self._numpy else function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function on inputs that are ready."""
        self.backend.check_process()
        with self._context():
            return self.function(*args, **kwargs)

    def caller(self, converters: Mapping[int | str, Callable[[Any], Any]]) -> Run:
        """What runs a call whose inputs are not ready: `run(args, kwargs)`, kwargs being its to change.

        converters: by position or name of an argument what makes it ready.
        """
        function, steps = self.function, tuple(converters.items())

        def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            ready = list(args)
            for place, convert in steps:
                if type(place) is int:
                    ready[place] = convert(ready[place])
                else:
                    kwargs[place] = convert(kwargs[place])  # type: ignore[index]
            return function(*ready, **kwargs)

        def run_in_context(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with self._context():
                return run(args, kwargs)

        if self.backend.call_context:
            return run_in_context
        return run if steps else lambda args, kwargs: function(*args, **kwargs)

    @cached_property
    def _prepare(self) -> Prepare:
        """The kernel's `prepare`; the weight itself where there is none."""
        prepare = self.choice.kernel.prepare_function() if self.choice.kernel else None
        return prepare or (lambda weight, call: weight)

    def form_key(self, name: str) -> tuple[Any, ...]:
        """What makes two ready forms of one weight the same."""
        what = self.call.inputs[name]
        prepare = self._prepare if name in self.packed else None
        return (self.choice.form, prepare, str(what) if isinstance(what, QuantType) else "", self._numpy)

    def converter(self, name: str, value: Any) -> Callable[[Any], Any] | None:
        """What makes values like this one ready as input `name`; None where they are as they come.

        value: a numpy array, a native one, or a `QuantWeight` of either.
        """
        is_numpy = isinstance(value, np.ndarray)
        if isinstance(value, QuantWeight):
            native = not any(isinstance(array, np.ndarray) for array in value.arrays.values())
            plain = native and name not in self.packed and self.choice.form is Form.AS_IT_IS and not self._numpy
            return None if plain else lambda weight: self.ready_weight(name, weight)
        if name in self.packed:
            if self._numpy == is_numpy:
                return self._pack
            return lambda weight: self.ready_weight(name, weight)
        on_host = name in self.host or self._numpy
        if isinstance(value, np.generic):
            return np.asarray if on_host else lambda number: self.backend.from_numpy(np.asarray(number))
        if on_host:
            return None if is_numpy else self.backend.to_numpy
        return self.backend.from_numpy if is_numpy else None

    def ready(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """All inputs, made ready."""
        steps = {name: self.converter(name, value) for name, value in inputs.items()}
        with self._context():
            return {name: step(inputs[name]) if step else inputs[name] for name, step in steps.items()}

    def program_weight(self, name: str, weight: Any) -> Any:
        """A weight made ready once for all steps of a program, in the context that those run in."""
        with self.backend.step_context():
            return self.ready_weight(name, weight)

    def ready_weight(self, name: str, weight: Any) -> Any:
        """A weight in the form that the kernel takes, packed if it packs that input."""
        if isinstance(weight, QuantWeight):
            weight = self._formed(name, weight)
        elif self._numpy:
            weight = on_host(self.backend, weight).astype(numpy_dtype(self.call.dtype(name)), copy=False)
        elif isinstance(weight, np.ndarray):
            weight = self.backend.from_numpy(weight)
            if self.backend.dtype_name(weight) != self.call.dtype(name):  # a checkpoint's floats, in the model's dtype
                self.backend.check_process()
                weight = self.backend.astype(weight, self.call.dtype(name))
        return self._pack(weight) if name in self.packed else weight

    def _pack(self, weight: Any) -> Any:
        """The kernel's packed form. The one place where `prepare` is called."""
        if not self._numpy:
            self.backend.check_process()
        return self._prepare(weight, self.call)

    def _formed(self, name: str, weight: QuantWeight) -> Any:
        """As it is, as affine numbers or expanded, of native arrays (numpy ones for a kernel that takes those)."""
        if self.choice.form is Form.EXPANDED:
            dtype = self.call.dtype(name)
            wide = "float64" if dtype == "float64" else "float32"
            exact = replace(weight, dtype=wide if name in self.packed else dtype)
            if not self._numpy:
                return self._expanded(exact, self.backend)
            host = on_host(self.backend, exact)
            return host.scheme.dequantize(np, host, numpy_dtype(wide)).astype(numpy_dtype(exact.dtype), copy=False)
        if self.choice.form is Form.AFFINE and weight.scheme.affine is not None:
            weight = replace(weight.scheme.as_affine(on_host(self.backend, weight)), dtype=weight.dtype)
        if self._numpy:
            return on_host(self.backend, weight)
        return each_array(lambda a: self.backend.from_numpy(a) if isinstance(a, np.ndarray) else a, weight)

    def _through_numpy(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of numpy arrays as one of native arrays, without copies where the library shares memory."""
        backend, spec = self.backend, self.spec
        positional = [i.name for i in spec.positional]
        ready = self.packed | {a.name for a in spec.attributes}

        def host(name: str, value: Any) -> Any:
            is_ready = name in ready or value is None or isinstance(value, (np.ndarray, QuantWeight))
            return value if is_ready else backend.to_numpy(value)

        def run(*args: Any, **kwargs: Any) -> Any:
            arrays = [host(name, value) for name, value in zip(positional, args, strict=False)]
            result = function(*arrays, **{name: host(name, value) for name, value in kwargs.items()})
            return each_array(backend.from_numpy, result)

        return run
