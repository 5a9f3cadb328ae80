"""Runs an op by its reference on a backend's array namespace: 16-bit inputs are computed in float32 and rounded
once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.quantized import QuantWeight
from tinyllm.spec.types import FLOATS

if TYPE_CHECKING:
    from tinyllm.plugins.backend import Backend


def reference_function(spec: OpSpec, backend: Backend) -> Callable[..., Any]:
    """A function with the op's signature that computes the reference on `backend.xp`."""
    xp = backend.xp

    inputs = {i.name: i for i in spec.inputs}

    def by_reference(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip((i.name for i in spec.positional), args, strict=False)), **kwargs}
        dtype = _result_dtype(spec, backend, given)
        accumulate = xp.float64 if any(_dtype(backend, given.get(n)) == "float64" for n in inputs) else xp.float32

        def widen(value: Any) -> Any:
            if isinstance(value, QuantWeight):
                return value.with_arrays({k: widen(a) for k, a in value.arrays.items()})
            return xp.astype(value, accumulate) if _dtype(backend, value) in FLOATS else xp.asarray(value)

        ready = {n: v if n not in inputs or inputs[n].host or v is None else widen(v) for n, v in given.items()}
        result = spec.reference(xp, *[ready.pop(i.name) for i in spec.positional], **ready)
        return _narrow(spec, backend, result, dtype, kwargs)

    return by_reference


def _dtype(backend: Backend, value: Any) -> str:
    if isinstance(value, (QuantWeight, np.ndarray)) or value is None:
        return str(getattr(value, "dtype", "none"))
    return backend.dtype_name(value)


def _result_dtype(spec: OpSpec, backend: Backend, given: Mapping[str, Any]) -> str:
    for i in spec.positional:
        if i.kind in ("T", "weight") and not isinstance(given[i.name], QuantWeight):
            return _dtype(backend, given[i.name])
    return "float32"


def _narrow(spec: OpSpec, backend: Backend, result: Any, dtype: str, attributes: Mapping[str, Any]) -> Any:
    """Each output in the dtype its spec states."""
    if isinstance(result, tuple):
        return tuple(_narrow_one(spec, i, backend, r, dtype, attributes) for i, r in enumerate(result))
    return _narrow_one(spec, 0, backend, result, dtype, attributes)


def _narrow_one(
    spec: OpSpec, index: int, backend: Backend, value: Any, dtype: str, attributes: Mapping[str, Any]
) -> Any:
    wanted = spec.outputs[min(index, len(spec.outputs) - 1)].dtype  # the last may stand for several
    if isinstance(value, QuantWeight):
        scales = "float16" if dtype in ("float16", "bfloat16") else "float32"
        return value.with_arrays({k: a if k == "q" else backend.astype(a, scales) for k, a in value.arrays.items()})
    if wanted.startswith("="):
        default = next(a.default for a in spec.attributes if a.name == wanted[1:])
        wanted = attributes.get(wanted[1:], default)
    return backend.astype(value, dtype if wanted == "T" else wanted)
