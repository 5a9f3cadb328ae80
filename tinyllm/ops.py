"""The callables a user calls: `ops.softmax(x)`. Each is made from its spec; the registry decides what runs.

numpy in gives numpy out on the selected backend; native arrays run on their own backend.
"""

from __future__ import annotations

from typing import Any

from tinyllm.errors import suggest
from tinyllm.registry.registry import Registry, default_registry
from tinyllm.spec.op_spec import OpSpec


class Op:
    """One op as a callable; `backend="torch"` chooses for this call."""

    def __init__(self, spec: OpSpec, registry: Registry) -> None:
        self.spec = spec
        self.__name__ = self.__qualname__ = spec.name
        self.__signature__ = spec.signature
        self.__doc__ = f"{spec.summary}\n\n    {spec.formula}\n\nSource: {spec.source}"
        self._dispatch = registry.dispatcher(spec.name)

    def __call__(self, *args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        return self._dispatch(args, kwargs, backend)

    def __repr__(self) -> str:
        return f"<op {self.spec.name}{self.spec.signature}>"


def make_ops(registry: Registry) -> dict[str, Op]:
    """The ops of a registry by name, for whoever keeps a registry of their own."""
    return {name: Op(spec, registry) for name, spec in registry.specs.items()}


def __getattr__(name: str) -> Op:
    """Ops are made at first use, so that importing tinyllm loads no plugin."""
    if name.startswith("__"):
        raise AttributeError(name)
    registry = default_registry()
    if name not in registry.specs:
        raise AttributeError(f"unknown op {name!r}.{suggest(name, registry.specs)}")
    op = globals()[name] = Op(registry.specs[name], registry)
    return op


def __dir__() -> list[str]:
    return sorted(default_registry().specs)
