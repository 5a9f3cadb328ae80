"""What is done with weights that may be quantized: the matrix they stand for, stacking, and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinyllm.errors import UnsupportedError, invalid
from tinyllm.spec.scheme import QuantWeight, Scheme
from tinyllm.spec.types import FLOATS


def dense(xp: Any, weight: Any, dtype: Any) -> Any:
    """The matrix itself: a quantized weight by its scheme's formula in `dtype`, an array as it is."""
    return weight.scheme.dequantize(xp, weight, dtype) if isinstance(weight, QuantWeight) else weight


def magnitude(weight: Any) -> np.ndarray:
    """What the rounding errors of a weight's numbers are relative to: `Scheme.magnitude`, of an array its own size."""
    size: np.ndarray = weight.scheme.magnitude(weight) if isinstance(weight, QuantWeight) else np.abs(weight)
    return size


def stack(weights: list[QuantWeight]) -> QuantWeight | None:
    """Weights of numpy arrays put below one another along their rows; None where their arrays do not allow it: a part
    that belongs to all rows of a weight has to be the same in all."""
    first = weights[0]
    parts = first.scheme.parts(first.shape)
    if any(weight.arrays.keys() != first.arrays.keys() for weight in weights):
        return None
    arrays = {}
    for name, array in first.arrays.items():
        others = [weight.arrays[name] for weight in weights]
        if parts[name].by_row:
            arrays[name] = np.concatenate(others)
        elif all(np.array_equal(other, array) for other in others):
            arrays[name] = array
        else:
            return None
    return replace(first, arrays=arrays, shape=(sum(w.shape[0] for w in weights), *first.shape[1:]))


def take_rows(weight: Any, rows: Any) -> Any:
    """Some rows of a numpy array or a `QuantWeight` `[..., N, K]`; rows: a slice or indices.

    Raises:
        UnsupportedError: rows share a part of the quantized weight in a way that they cannot be taken out of.
    """
    if not isinstance(weight, QuantWeight):
        return weight[..., rows, :]
    count = len(range(weight.shape[-2])[rows]) if isinstance(rows, slice) else len(rows)
    shape = (*weight.shape[:-2], count, weight.shape[-1])
    kinds, wanted = weight.scheme.parts(weight.shape), weight.scheme.parts(shape)
    arrays = {name: array[..., rows, :] if kinds[name].by_row else array for name, array in weight.arrays.items()}
    if any(array.shape != wanted[name].shape for name, array in arrays.items()):
        raise UnsupportedError(f"{weight.scheme}: rows that share their scales cannot be taken apart")
    return replace(weight, arrays=arrays, shape=shape)


def take_columns(weight: Any, columns: slice) -> Any:
    """Neighbouring columns of a numpy array or a `QuantWeight` `[..., N, K]`, whole groups of them.

    Raises:
        UnsupportedError: the columns cut groups apart, or stand in an order of their own.
    """
    if not isinstance(weight, QuantWeight):
        return weight[..., columns]
    count = columns.stop - columns.start
    if columns.start % weight.scheme.block or count % weight.scheme.block:
        raise UnsupportedError(
            f"{weight.scheme}: columns {columns.start} to {columns.stop} are no whole groups of {weight.scheme.block}"
        )
    shape = (*weight.shape[:-1], count)
    kinds, wanted = weight.scheme.parts(weight.shape), weight.scheme.parts(shape)
    arrays = {}
    for name, array in weight.arrays.items():
        size, kept = kinds[name].shape, wanted[name].shape
        if size != kept and not kinds[name].by_row:
            raise UnsupportedError(f"{weight.scheme}: columns in an order of their own cannot be taken apart")
        start = columns.start * kept[-1] // count
        arrays[name] = array if size == kept else array[..., start : start + kept[-1]]
    return replace(weight, arrays=arrays, shape=shape)


def check_quant_weight(
    where: str,
    name: str,
    weight: QuantWeight,
    dtype_name: Callable[[Any], str] = lambda array: str(array.dtype),
    to_numpy: Callable[[Any], np.ndarray] = np.asarray,
) -> None:
    """Holds a weight to what its scheme says.

    dtype_name, to_numpy: the backend's, where the arrays are not numpy's.

    Raises:
        InvalidInputError: names `where`, the weight and the part that does not fit.
    """

    def need(fits: bool, part: str, expected: str, got: object) -> None:
        if not fits:
            raise invalid(where, f"{name}: {part}", expected, got)

    scheme, shape = weight.scheme, weight.shape
    need(isinstance(scheme, Scheme), "scheme", "a Scheme", repr(scheme))
    sizes = isinstance(shape, tuple) and len(shape) > 1 and all(_is_count(n) for n in shape)
    need(sizes, "shape", "2 or more sizes in a tuple", repr(shape))
    need(weight.dtype in FLOATS, "dtype", f"one of {', '.join(FLOATS)}", repr(weight.dtype))
    need(shape[-1] % scheme.block == 0, "shape", f"a row length that groups of {scheme.block} divide", shape[-1])
    expected = scheme.check_parameters(shape)
    need(expected is None, "shape", expected or "", shape[-1])
    parts = scheme.parts(shape)
    required = {part for part, what in parts.items() if not what.optional}
    fits = required <= weight.arrays.keys() <= parts.keys()
    need(
        fits,
        "arrays",
        ", ".join(part for part in parts if part in required),
        ", ".join(sorted(weight.arrays)) or "none",
    )
    shared = ""
    for part, array in weight.arrays.items():
        dtype, what = dtype_name(array), parts[part]
        allowed = (shared,) if shared and len(what.dtypes) > 1 else what.dtypes
        need(dtype in allowed, part, " or ".join(allowed), dtype)
        shared = dtype if len(what.dtypes) > 1 else shared
        need(tuple(array.shape) == what.shape, part, f"shape {list(what.shape)}", list(array.shape))
    wrong = scheme.check_values(weight, to_numpy)
    if wrong is not None:
        raise invalid(where, f"{name}: {wrong[0]}", wrong[1], wrong[2])


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)
