"""Is an output right? Elementwise and in the mean, relative to the size that rounding errors are relative to."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tests.ops.harness import Example, numpy_dtype, widen
from tinyllm.catalogue.packing import dequantized
from tinyllm.quant_weight import QuantWeight
from tinyllm.validation import output_types

INEXACT = 2.0**-4
"""Allowed error, relative to the scale, of a kernel that rounds activations (exact=False)."""


def wrong(example: Example, outputs: tuple[Any, ...], *, exact: bool = True, against: tuple[Any, ...] | None = None) -> str:
    """What is wrong with some outputs, or an empty string.

    Args:
        exact: False for a kernel that rounds activations, of which less is asked.
        against: outputs of another backend to compare with, each of the two being allowed the tolerance.
    """
    expected = example.expected if against is None else tuple(widen(a) for a in against)
    types = output_types(example.spec, example.call)
    if not len(outputs) == len(types) == len(expected):
        return f"{len(outputs)} outputs, the spec says {len(types)}, the reference gives {len(expected)}"
    bounds = zip(example.scales, example.inner_scales, strict=True)
    for i, (output, wanted, kind, (scale, inner)) in enumerate(zip(outputs, expected, types, bounds, strict=True)):
        tolerance = example.spec.tolerance * (1 if against is None else 2)
        if isinstance(wanted, QuantWeight):
            message = _wrong_quant(output, wanted, scale, example.dtype, tolerance)
        elif (str(output.dtype), output.shape) != (kind.dtype, kind.shape):
            message = f"{output.dtype}{list(output.shape)} instead of {kind.dtype}{list(kind.shape)}"
        elif wanted.shape != kind.shape:
            message = f"the reference gives {list(wanted.shape)}, the spec says {list(kind.shape)}"
        elif not kind.dtype.startswith(("float", "bfloat")):
            message = "" if np.array_equal(output, wanted) else f"{np.sum(output != wanted)} of {wanted.size} values differ"
        else:
            unit = _unit(np.asarray(wanted), scale, inner, kind.dtype, example.inner_dtype, exact)
            message = _wrong_array(output, np.asarray(wanted), unit, tolerance)
        if message:
            return f"output {i}: {message}" if len(outputs) > 1 else message
    return ""


def _eps(dtype: str) -> float:
    return float(ml_dtypes.finfo(numpy_dtype(dtype)).eps)


def _unit(wanted: Any, scale: Any, inner: Any, dtype: str, inner_dtype: str, exact: bool) -> Any:
    """One eps: what the tolerance multiplies, per element."""
    eps = max(_eps(dtype), _eps(inner_dtype)) if exact else INEXACT
    unit = eps * np.abs(wanted if scale is None else scale)
    return np.broadcast_to(unit if inner is None else unit + _eps(inner_dtype) * np.abs(inner), wanted.shape)


def _wrong_array(output: Any, wanted: Any, unit: Any, tolerance: float) -> str:
    given = output.astype(np.float64)
    with np.errstate(all="ignore"):
        rounded = wanted.astype(output.dtype).astype(np.float64)
    strange = ~np.isfinite(rounded)
    agree = (given == rounded) | (np.isnan(given) & np.isnan(rounded))
    if not np.all(agree | np.where(strange, False, np.isfinite(given))):
        index = _first(~(agree | np.where(strange, False, np.isfinite(given))))
        return f"{given[index]} at {index} where the reference has {rounded[index]}"
    errors = np.where(strange, 0.0, np.abs(given - np.where(strange, 0.0, wanted)))
    errors = np.maximum(errors - (_tiny(output.dtype) if tolerance else 0.0), 0.0)
    with np.errstate(all="ignore"):
        in_eps = np.where(errors == 0, 0.0, errors / unit)
    if in_eps.size and not in_eps.max() <= tolerance:
        index = tuple(map(int, np.unravel_index(int(in_eps.argmax()), in_eps.shape)))
        values = f"{given[index]:.9g}, reference {wanted[index]:.9g}; {np.sum(in_eps > tolerance)} of {in_eps.size} are off"
        return f"error of {in_eps.max():.3g} eps (allowed {tolerance:g}) at {index}: {values}"
    if in_eps.size >= 16 and in_eps.mean() > tolerance / 4:
        return f"mean error of {in_eps.mean():.3g} eps (allowed {tolerance / 4:g}), worst {in_eps.max():.3g}"
    return ""


def _tiny(dtype: Any) -> float:
    """What libraries may flush to 0: subnormal numbers, in float16 the last bit of them."""
    info = ml_dtypes.finfo(dtype)
    return 2 * float(info.smallest_normal) * (float(info.eps) if dtype == np.float16 else 1.0)


def _first(where: Any) -> tuple[int, ...]:
    return tuple(int(i[0]) for i in np.nonzero(where))


def _wrong_quant(output: Any, wanted: QuantWeight, scale: Any, dtype: str, tolerance: float) -> str:
    """A quantised weight is judged by its format and by what it gives back dequantised."""
    if not isinstance(output, QuantWeight):
        return f"{type(output).__name__} instead of a QuantWeight"
    for name in ("scheme", "bits", "group_size", "shape"):
        if getattr(output, name) != getattr(wanted, name):
            return f"{name} {getattr(output, name)!r} instead of {getattr(wanted, name)!r}"
    floats = "float32" if dtype in ("float32", "float64") else "float16"
    for name in output.arrays.keys() | wanted.arrays.keys():
        given, reference = (w.arrays.get(name) for w in (output, wanted))
        kind = floats if name in ("scales", "biases") else str(getattr(reference, "dtype", None))
        if given is None or reference is None or (str(given.dtype), given.shape) != (kind, reference.shape):
            return f"array {name}: {_described(given)}, expected {kind}{list(reference.shape) if reference is not None else ''}"
    restored, ideal = dequantized(np, widen(output)), dequantized(np, widen(wanted))
    in_eps = np.abs(restored - ideal) / (_eps(floats) * np.maximum(scale, 1e-30))
    if in_eps.size and not in_eps.max() <= tolerance:
        index = np.unravel_index(int(in_eps.argmax()), in_eps.shape)
        return f"dequantised: error of {in_eps.max():.3g} eps at {tuple(map(int, index))}: {restored[index]!r}, reference {ideal[index]!r}"
    return ""


def _described(array: Any) -> str:
    return "absent" if array is None else f"{array.dtype}{list(array.shape)}"
