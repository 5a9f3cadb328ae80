"""Runs an op by its reference on a backend's array namespace: 16-bit inputs are computed in float32 and rounded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyllm.quant_weight import QuantWeight
from tinyllm.spec import FLOATS, OpSpec

if TYPE_CHECKING:
    from tinyllm.backend import Backend


def reference_function(spec: OpSpec, backend: Backend) -> Callable[..., Any]:
    """A function with the op's signature that computes the reference on `backend.xp`."""
    xp = backend.xp

    def by_reference(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *(kwargs[i.name] for i in spec.keyword if kwargs.get(i.name) is not None)]
        dtype = _result_dtype(spec, backend, args)
        accumulate = xp.float64 if any(_dtype(backend, v) == "float64" for v in values) else xp.float32

        def widen(name: str, value: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, QuantWeight):
                return value.with_arrays({k: widen(k, a) for k, a in value.arrays.items()})
            return xp.astype(value, accumulate) if _dtype(backend, value) in FLOATS else xp.asarray(value)

        names = [i.name for i in spec.positional]
        widened = [widen(n, a) for n, a in zip(names, args, strict=True)]
        keyword = {n: widen(n, v) if n in {i.name for i in spec.keyword} else v for n, v in kwargs.items()}
        result = spec.reference(xp, *widened, **keyword)
        return _narrow(spec, backend, result, dtype, kwargs)

    return by_reference


def _dtype(backend: Backend, value: Any) -> str:
    if isinstance(value, (QuantWeight, np.ndarray)) or value is None:
        return str(getattr(value, "dtype", "none"))
    return backend.dtype_name(value)


def _result_dtype(spec: OpSpec, backend: Backend, args: tuple[Any, ...]) -> str:
    for given, value in zip(spec.positional, args, strict=True):
        if given.kind in ("T", "weight") and not isinstance(value, QuantWeight):
            return _dtype(backend, value)
    return "float32"


def _narrow(spec: OpSpec, backend: Backend, result: Any, dtype: str, attributes: Mapping[str, Any]) -> Any:
    """Each output in the dtype its spec states."""
    if isinstance(result, tuple):
        return tuple(_narrow_one(spec, i, backend, r, dtype, attributes) for i, r in enumerate(result))
    return _narrow_one(spec, 0, backend, result, dtype, attributes)


def _narrow_one(spec: OpSpec, index: int, backend: Backend, value: Any, dtype: str, attributes: Mapping[str, Any]) -> Any:
    wanted = spec.outputs[index].dtype
    if isinstance(value, QuantWeight) or wanted == "quant":
        return value
    if wanted.startswith("="):
        default = next(a.default for a in spec.attributes if a.name == wanted[1:])
        wanted = attributes.get(wanted[1:], default)
    return backend.astype(value, dtype if wanted == "T" else wanted)
