"""Records the op calls of a bound program while it runs: which op, on what shapes and dtypes, with which attributes and
indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyllm.plugins.backend import Backend, on_host
from tinyllm.plugins.load import Plugins
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.choice import Choice
from tinyllm.registry.registry import Registry
from tinyllm.settings.read import Setting
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantType, QuantWeight
from tinyllm.spec.types import INTEGERS, ArrayType, Call


@dataclass(frozen=True)
class Recorded:
    """A call. `types` per input that was given; `values` of those that hold integers, since shapes do not say which
    keys are read."""

    op: str
    types: Mapping[str, ArrayType | QuantType]
    attributes: Mapping[str, Any]
    values: Mapping[str, np.ndarray]


class Recorder(Registry):
    """A registry whose programs report each call they make to `calls`, the first of a form only, with how often it
    came.

    Bind a model with it, run it, read `calls`. Weights are told by the graph, since kernels see them packed; all else
    by what came.
    """

    def __init__(self, plugins: Plugins, settings: Mapping[str, Setting]) -> None:
        super().__init__(plugins, settings)
        self.calls: dict[Any, Recorded] = {}
        self.counts: dict[Any, int] = {}
        self._sizes: dict[Any, int] = {}
        self._asked: dict[int, tuple[Choice, Call]] = {}

    def choose(self, call: Call, backend: Backend, kernel: str | None = None, fast: bool | None = None) -> Choice:
        """As the registry chooses, and remembers for which call. Nothing is compiled: a compiled region tells of no
        calls."""
        choice = super().choose(call, backend, kernel, fast)
        if choice.kernel is not None:
            choice = replace(choice, kernel=replace(choice.kernel, traceable=False))
        self._asked[id(choice)] = choice, call
        return choice

    def bind(self, choice: Choice) -> BoundKernel:
        """A kernel whose function tells of each call."""
        bound = super().bind(choice)
        function, call = bound.function, self._asked[id(choice)][1] if id(choice) in self._asked else None

        def recorded(*args: Any, **kwargs: Any) -> Any:
            self._record(bound.spec, call, choice.backend, args, kwargs)
            return function(*args, **kwargs)

        bound.function = recorded
        return bound

    def _record(
        self, spec: OpSpec, call: Call | None, backend: Backend, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        given = dict(zip((i.name for i in spec.positional), args, strict=False)) | dict(kwargs)
        inputs = {i.name: given[i.name] for i in spec.inputs if given.get(i.name) is not None}
        types = {
            name: self._type(call.inputs.get(name) if call else None, value, backend) for name, value in inputs.items()
        }
        attributes = {a.name: given[a.name] for a in spec.attributes if a.name in given}
        key = (
            spec.name,
            tuple((n, str(t)) for n, t in types.items()),
            tuple((n, repr(v)) for n, v in attributes.items()),
        )
        self.counts[key] = self.counts.get(key, 0) + 1
        if key not in self.calls:
            values = {
                n: on_host(backend, inputs[n]).copy()
                for n, t in types.items()
                if isinstance(t, ArrayType) and t.dtype in INTEGERS
            }
            self.calls[key] = Recorded(spec.name, types, attributes, values)

    def _type(self, asked: ArrayType | QuantType | None, value: Any, backend: Backend) -> ArrayType | QuantType:
        """What came; where it is packed, what the graph says, with the sizes that its names had last."""
        if isinstance(value, QuantWeight):
            return value.type
        if not isinstance(value, np.ndarray) and not hasattr(value, "shape") and asked is not None:
            return replace(asked, shape=tuple(self._sizes.get(n, n) for n in asked.shape))
        if asked is not None and all(isinstance(n, int) for n in asked.shape):
            return asked
        if asked is not None:
            self._sizes |= {n: size for n, size in zip(asked.shape, value.shape, strict=True) if isinstance(n, str)}
        return ArrayType(
            tuple(value.shape), str(value.dtype) if isinstance(value, np.ndarray) else backend.dtype_name(value)
        )
