"""Runs ops that a backend has no kernel for: composed of other ops, or by their reference on its array namespace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyllm.plugins.backend import Backend
from tinyllm.spec.op_spec import OpSpec
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.types import FLOATS


class BackendOps:
    """`ops.linear(x, weight)` on the backend's arrays. `xp` is its namespace: for views, and for what is no op."""

    def __init__(self, dispatcher: Callable[[str], Callable[..., Any]], backend: Backend) -> None:
        self.backend = backend
        self.xp = backend.xp
        self._dispatcher = dispatcher
        self._place = f"{backend.name}:{backend.device}"

    def __getattr__(self, op: str) -> Callable[..., Any]:
        run = self._dispatcher(op)
        return lambda *args, **kwargs: run(args, kwargs, self._place)

    def array(self, values: np.ndarray) -> Any:
        """A numpy array as a native one."""
        return self.backend.from_numpy(values)

    def astype(self, array: Any, dtype: str) -> Any:
        """The same numbers in another dtype."""
        return array if self.backend.dtype_name(array) == dtype else self.backend.astype(array, dtype)

    def dtype(self, array: Any) -> str:
        """The dtype of an array, as numpy names it."""
        return self.backend.dtype_name(array)


def reference_function(spec: OpSpec, backend: Backend) -> Callable[..., Any]:
    """A function with the op's signature that computes the reference on `backend.xp`: 16-bit inputs in float32, rounded
    once."""
    xp, names = backend.xp, [i.name for i in spec.positional]
    unchanged = {*spec.host, *(a.name for a in spec.attributes)}

    def by_reference(*args: Any, **kwargs: Any) -> Any:
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        dtypes = {"T": _result_dtype(spec, backend, arguments, "T", "weight", "quant")}
        dtypes["S"] = _result_dtype(spec, backend, arguments, "S")
        wide = any(_dtype(backend, value) == "float64" for name, value in arguments.items() if name not in unchanged)
        accumulate = xp.float64 if wide else xp.float32

        def widened(value: Any) -> Any:
            if isinstance(value, QuantWeight) or value is None:
                return value
            return xp.astype(value, accumulate) if _dtype(backend, value) in FLOATS else xp.asarray(value)

        ready = {name: value if name in unchanged else widened(value) for name, value in arguments.items()}
        result = spec.reference(xp, *[ready.pop(name) for name in names], **ready)
        if isinstance(result, tuple):
            return tuple(_narrowed(spec, i, backend, part, dtypes) for i, part in enumerate(result))
        return _narrowed(spec, 0, backend, result, dtypes)

    return by_reference


def _dtype(backend: Backend, value: Any) -> str:
    if isinstance(value, (QuantWeight, np.ndarray)) or value is None:
        return str(getattr(value, "dtype", "none"))
    return backend.dtype_name(value)


def _result_dtype(spec: OpSpec, backend: Backend, arguments: Mapping[str, Any], *kinds: str) -> str:
    """That of the first array of some kinds, or else of a quantized weight's numbers."""
    values = [arguments[i.name] for i in spec.inputs if i.kind in kinds and arguments.get(i.name) is not None]
    arrays = [value for value in values if not isinstance(value, QuantWeight)]
    return _dtype(backend, (arrays or values)[0]) if values else "float32"


def _narrowed(spec: OpSpec, index: int, backend: Backend, value: Any, dtypes: Mapping[str, str]) -> Any:
    """An output in the dtype that its spec states; the scales of a weight in float16 for 16-bit inputs."""
    if isinstance(value, QuantWeight):
        dtype = dtypes["T"]
        parts, scales = value.scheme.parts(value.shape), "float16" if dtype in ("float16", "bfloat16") else "float32"
        arrays = {n: backend.astype(a, scales) if len(parts[n].dtypes) > 1 else a for n, a in value.arrays.items()}
        return QuantWeight(value.scheme, arrays, value.shape, dtype)
    wanted = spec.outputs[min(index, len(spec.outputs) - 1)].dtype  # the last may stand for several
    return backend.astype(value, dtypes.get(wanted, wanted))
