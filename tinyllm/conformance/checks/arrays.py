"""A backend's own promises, without any op: arrays go in and come out as the same numbers, whatever their memory looks
like."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tinyllm.conformance.checks.check import Check, Plan
from tinyllm.conformance.example import DTYPES, SHORT
from tinyllm.conformance.judge import Verdict
from tinyllm.plugins.backend import Backend
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.types import INTEGERS

OP = "arrays"
"""Stands in ids where an op would."""


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": np.asarray,
    "no axes": lambda a: np.asarray(a[0, 0]),
    "empty": lambda a: a[:0],
    "transposed": lambda a: a.T,
    "every second": lambda a: a[:, ::2],
    "backwards": lambda a: a[::-1],
    "one row backwards": lambda a: a[:1][::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "read-only": lambda a: np.broadcast_to(a, a.shape),  # a view that may not be written to
}


def arrays(backend: Backend, plan: Plan) -> Iterator[Check]:
    """Each dtype in each layout, there and back; zeros and casts."""
    if (plan.ops and OP not in plan.ops) or plan.kernels:
        return
    floats = [d for d in DTYPES if d in backend.dtypes and (not plan.dtypes or d in plan.dtypes)]
    for dtype in (*floats, *(d for d in INTEGERS if d in ("int32", "int64", "uint32", "uint8", "int8")), "bool"):
        if dtype in floats or not plan.dtypes:
            for layout in LAYOUTS:
                yield _check(backend, layout, dtype, _round_trip)
    for dtype in floats:
        yield _check(backend, "zeros", dtype, _zeros)
        yield _check(backend, "casts", dtype, _casts)


def _check(backend: Backend, case: str, dtype: str, test: Callable[[Backend, str, str], Iterator[str]]) -> Check:
    """A check that holds where all that a test yields is empty; otherwise it tells the first that is not."""
    return Check(
        backend.name,
        OP,
        case,
        lambda admitted: Verdict(next(filter(None, test(backend, case, dtype)), "")),
        dtype=dtype,
    )


def _numbers(dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (np.arange(15).reshape(3, 5) * (1.5 if dtype in SHORT else 1)).astype(numpy_dtype(dtype))


def _round_trip(backend: Backend, layout: str, dtype: str) -> Iterator[str]:
    given = LAYOUTS[layout](_numbers(dtype))
    before = given.copy()
    native = backend.from_numpy(given)
    if tuple(native.shape) != given.shape:
        yield f"from_numpy gives shape {list(native.shape)} instead of {list(given.shape)}"
    if backend.dtype_name(native) != dtype:
        yield f"dtype_name says {backend.dtype_name(native)!r} of an array of {dtype}"
    yield _differs(backend.to_numpy(native), before, "to_numpy(from_numpy(x))")
    yield _differs(given, before, "x afterwards")


def _zeros(backend: Backend, case: str, dtype: str) -> Iterator[str]:
    for shape in ((2, 3), (0, 3), ()):
        yield _differs(
            backend.to_numpy(backend.zeros(shape, dtype)), np.zeros(shape, numpy_dtype(dtype)), f"zeros({shape})"
        )


def _casts(backend: Backend, case: str, dtype: str) -> Iterator[str]:
    numbers = _numbers("float32")
    for source in (d for d in DTYPES if d in backend.dtypes):
        given = backend.from_numpy(numbers.astype(numpy_dtype(source)))
        yield _differs(
            backend.to_numpy(backend.astype(given, dtype)), numbers.astype(numpy_dtype(dtype)), f"astype from {source}"
        )


def _differs(given: np.ndarray, wanted: np.ndarray, what: str) -> str:
    if not isinstance(given, np.ndarray) or (given.shape, str(given.dtype)) != (wanted.shape, str(wanted.dtype)):
        found = f"{given.dtype}{list(given.shape)}" if isinstance(given, np.ndarray) else type(given).__name__
        return f"{what}: {found} instead of {wanted.dtype}{list(wanted.shape)}"
    return "" if np.array_equal(given, wanted) else f"{what}: other numbers"
