"""Backends with a fault in the nodes that a test names, around whatever kernel runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from tests.catalogue.harness import registry
from tinyllm.plugins.backend import Backend, on_host
from tinyllm.registry.bound_kernel import BoundKernel
from tinyllm.registry.choice import Choice
from tinyllm.registry.registry import Registry
from tinyllm.registry.selection import Selection

Right = Callable[..., Any]
Fault = Callable[..., Any]
"""`fault(backend, right, *args, **kwargs)`: what a kernel gives in the place of what `right(*args, **kwargs)` does."""


class Planted(Registry):
    """All that is installed, with a fault in the kernels of an op on one backend.

    node: in which nodes: those whose names hold this.
    """

    def __init__(self, backend: str, op: str, fault: Fault, node: str = "") -> None:
        there = registry()
        super().__init__(there.plugins, there.settings)
        self._at, self._op, self._fault, self._node = backend, op, fault, node
        self._binding = ""

    def backend_for(self, op: str, selection: Selection, node: str = "") -> Backend:
        """Remembers the node that is bound next."""
        self._binding = node
        return super().backend_for(op, selection, node)

    def bind(self, choice: Choice) -> BoundKernel:
        """Where the fault is, no part of a linked run, which would not call the function."""
        bound = super().bind(choice)
        if (choice.op, choice.backend.name) != (self._op, self._at) or self._node not in self._binding:
            return bound
        if choice.kernel:
            bound.choice = replace(choice, kernel=replace(choice.kernel, traceable=False))
        right, fault, backend = bound.function, self._fault, choice.backend
        bound.function = lambda *args, **kwargs: fault(backend, right, *args, **kwargs)
        return bound


def _after(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """A change of what the kernel gives."""

    def fault(backend: Backend, right: Right, *args: Any, **kwargs: Any) -> Any:
        y = on_host(backend, right(*args, **kwargs))
        return backend.from_numpy(np.ascontiguousarray(change(y).astype(y.dtype)))

    return fault


def _argument(place: int, change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """A change of what the kernel is given at a place, natively or on the host as the kernel has it."""

    def fault(backend: Backend, right: Right, *args: Any, **kwargs: Any) -> Any:
        given, on_device = args[place], not isinstance(args[place], np.ndarray)
        value = on_host(backend, given)
        changed = np.ascontiguousarray(change(value.copy()).astype(value.dtype))
        ready = list(args)
        ready[place] = backend.from_numpy(changed) if on_device else changed
        return right(*ready, **kwargs)

    return fault


def _setting(**changed: Any) -> Fault:
    """Other attributes, or None for an input that is left out."""

    def fault(backend: Backend, right: Right, *args: Any, **kwargs: Any) -> Any:
        given = {name: value for name, value in (kwargs | changed).items() if value is not None}
        return right(*args, **given)

    return fault


def _swapped(backend: Backend, right: Right, gate: Any, up: Any, **kwargs: Any) -> Any:
    return right(up, gate, **kwargs)


def _stale(table: np.ndarray) -> np.ndarray:
    """The last page is read where the first lies."""
    table[:, -1] = table[:, 0]
    return table


def _without_last(kv_len: np.ndarray) -> np.ndarray:
    return np.where(kv_len > 385, kv_len - 1, kv_len)


def _unwritten(v: np.ndarray) -> np.ndarray:
    v[-1] = 0
    return v


FAULTS: dict[str, tuple[str, str, Fault]] = {
    "window past 300": ("paged_attention", "layers.1.", _setting(window=300)),
    "eps": ("rms_norm", "layers.1.", _setting(eps=1e-2)),
    "bias left out": ("linear", "layers.1.self_attn.q_proj", _setting(bias=None)),
    "heads rolled": ("paged_attention", "layers.1.", _after(lambda y: np.roll(y, 1, axis=1))),
    "scale off by a thousandth": ("linear", "layers.1.mlp.down_proj", _after(lambda y: y * 1.001)),
    "last key missing": ("paged_attention", "layers.1.", _argument(4, _without_last)),
    "rope stops turning": ("rope_angles", "", _argument(0, lambda positions: np.minimum(positions, 350))),
    "gate and up swapped": ("swiglu", "layers.1.", _swapped),
    "rounded to bfloat16": (
        "linear",
        "layers.1.self_attn.o_proj",
        _argument(0, lambda x: x.astype(ml_dtypes.bfloat16)),
    ),
    "stale page": ("paged_attention", "layers.1.", _argument(5, _stale)),
    "value not written": ("kv_append", "layers.1.", _argument(3, _unwritten)),
}
"""By name the op, the nodes and the fault. Of the nodes that have it the first is the guilty one."""
