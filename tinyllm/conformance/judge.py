"""Is an output right? Each element and the mean of all are held against bounds relative to the size of rounding errors.

The unit is the ulp of an op: `eps(dtype) * scale + eps(inner dtype) * inner_scale`, the scales given by the spec (for a
matrix product the sum of |x||w|). An element may be off by `tolerance` ulps, the mean over an output by a quarter of
that: the first bound finds one wrong element among a million, which a mean hides, the second a small error that all
elements share, which is no rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyllm.conformance.example import Example, eps, tiny, widen
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.validation import output_types

INEXACT = 2.0**-7
"""Allowed error, relative to the scale, of a kernel that rounds activations (exact=False)."""

MEAN_SHARE = 0.25
"""What of the tolerance the mean error may reach."""

FEWEST = 16
"""Elements that a mean needs to say anything."""


@dataclass(frozen=True)
class Verdict:
    """`message` says what is wrong, and is empty where nothing is. `worst`, `mean` and the `bound` in ulps of the
    op."""

    message: str = ""
    worst: float = 0.0
    mean: float = 0.0
    where: str = ""
    bound: float = 0.0


def judge(
    example: Example,
    outputs: tuple[Any, ...],
    *,
    exact: bool = True,
    against: tuple[Any, ...] | None = None,
    factor: float = 1.0,
) -> Verdict:
    """The verdict on outputs given as numpy arrays or `QuantWeight`s.

    Args:
        exact: False for a kernel that rounds activations, of which less is asked.
        against: other outputs to compare with instead of the reference, each of the two being allowed the tolerance.
        factor: by how much a declared exception widens the bounds.
    """
    expected = example.expected if against is None else tuple(widen(a) for a in against)
    types = output_types(example.spec, example.call)
    if not len(outputs) == len(types) == len(expected):
        return Verdict(f"{len(outputs)} outputs, the spec says {len(types)}, the reference gives {len(expected)}")
    both_err = against is not None or (example.spec.reference_errs and example.dtype == "float64")
    tolerance = example.spec.tolerance * factor * (2 if both_err else 1)
    verdicts = []
    bounds = zip(example.scales, example.inner_scales, strict=True)
    for i, (output, wanted, kind, (scale, inner)) in enumerate(zip(outputs, expected, types, bounds, strict=True)):
        if isinstance(wanted, QuantWeight):
            verdict = _judge_quant(output, wanted, scale, example.call.dims["dtype of T"][1], tolerance)
        elif not isinstance(output, np.ndarray) or (str(output.dtype), output.shape) != (kind.dtype, kind.shape):
            verdict = Verdict(f"{_described(output)} instead of {kind.dtype}{list(kind.shape)}")
        elif wanted.shape != kind.shape:
            verdict = Verdict(f"the reference gives {list(wanted.shape)}, the spec says {list(kind.shape)}")
        elif not kind.dtype.startswith(("float", "bfloat")):
            verdict = Verdict(
                "" if np.array_equal(output, wanted) else f"{np.sum(output != wanted)} of {wanted.size} values differ"
            )
        else:
            unit = _ulp(np.asarray(wanted), scale, inner, kind.dtype, example.inner_dtype, exact)
            verdict = judge_array(output, np.asarray(wanted), unit, tolerance)
        if verdict.message:
            prefix = f"output {i}: " if len(outputs) > 1 else ""
            return replace(verdict, message=prefix + verdict.message, bound=tolerance)
        verdicts.append(replace(verdict, bound=tolerance))
    return max(verdicts, key=lambda v: v.worst, default=Verdict())


def _ulp(wanted: Any, scale: Any, inner: Any, dtype: str, inner_dtype: str, exact: bool) -> Any:
    """What the tolerance multiplies, per element."""
    step = max(eps(dtype), eps(inner_dtype)) if exact else INEXACT
    unit = step * np.abs(wanted if scale is None else scale)
    return np.broadcast_to(unit if inner is None else unit + eps(inner_dtype) * np.abs(inner), wanted.shape)


def judge_array(output: Any, wanted: Any, ulp: Any, tolerance: float) -> Verdict:
    """An array against what the reference gives in float64; `ulp` per element, tolerance 0 means the same numbers."""
    given = output.astype(np.float64)
    with np.errstate(all="ignore"):
        rounded = wanted.astype(output.dtype).astype(np.float64)
    strange = ~np.isfinite(rounded)
    agree = (given == rounded) | (np.isnan(given) & np.isnan(rounded))
    fine = agree | np.where(strange, False, np.isfinite(given))
    if not np.all(fine):
        index = tuple(int(i[0]) for i in np.nonzero(~fine))
        message = (
            f"{given[index]} at {index} where the reference has {rounded[index]}; {np.sum(~fine)} of "
            f"{fine.size} are like that"
        )
        return Verdict(message, np.inf, np.inf, str(index))
    errors = np.abs(np.where(strange, 0.0, given) - np.where(strange, 0.0, wanted))
    inexact = (ulp > 0) & (tolerance > 0)  # numbers that are copied are copied as they are
    errors = np.maximum(errors - np.where(inexact, _flushed(str(output.dtype)), 0.0), 0.0)
    if not errors.size:
        return Verdict()
    with np.errstate(all="ignore"):
        in_ulps = np.where(errors == 0, 0.0, errors / ulp)
    worst, mean = float(in_ulps.max()), float(in_ulps.mean())
    index = tuple(map(int, np.unravel_index(int(in_ulps.argmax()), in_ulps.shape)))
    if not worst <= tolerance:
        values = (
            f"{given[index]:.9g}, reference {wanted[index]:.9g}; {np.sum(~(in_ulps <= tolerance))} of "
            f"{in_ulps.size} are off"
        )
        return Verdict(
            f"error of {worst:.3g} ulps (allowed {tolerance:g}) at {index}: {values}", worst, mean, str(index)
        )
    if in_ulps.size >= FEWEST and mean > tolerance * MEAN_SHARE:
        message = f"mean error of {mean:.3g} ulps (allowed {tolerance * MEAN_SHARE:g}), worst {worst:.3g}"
        return Verdict(message, worst, mean, str(index))
    return Verdict("", worst, mean, str(index))


def _flushed(dtype: str) -> float:
    """What libraries may flush to 0: subnormal numbers, in float16 the last bit of them."""
    return 2 * tiny(dtype) * (eps(dtype) if dtype == "float16" else 1.0)


def _judge_quant(output: Any, wanted: QuantWeight, scale: Any, dtype: str, tolerance: float) -> Verdict:
    """A quantized weight is judged by its format and by what it gives back dequantized."""
    if not isinstance(output, QuantWeight):
        return Verdict(f"{type(output).__name__} instead of a QuantWeight")
    for name in ("scheme", "shape"):
        if getattr(output, name) != getattr(wanted, name):
            return Verdict(f"{name} {getattr(output, name)} instead of {getattr(wanted, name)}")
    if output.dtype != dtype:
        return Verdict(f"dtype {output.dtype} instead of {dtype}")
    floats = "float32" if dtype in ("float32", "float64") else "float16"
    parts = wanted.scheme.parts(wanted.shape)
    for name in output.arrays.keys() | wanted.arrays.keys():
        given, reference = (w.arrays.get(name) for w in (output, wanted))
        kind = floats if name in parts and len(parts[name].dtypes) > 1 else str(getattr(reference, "dtype", None))
        if given is None or reference is None or (str(given.dtype), given.shape) != (kind, reference.shape):
            return Verdict(
                f"array {name}: {_described(given)}, expected "
                f"{kind}{list(reference.shape) if reference is not None else ''}"
            )
    restored, ideal = (dense(np, weight, np.float64) for weight in (output, wanted))
    in_ulps = np.abs(restored - ideal) / (eps(floats) * np.maximum(scale, 1e-30))
    if not in_ulps.size:
        return Verdict()
    worst, mean = float(in_ulps.max()), float(in_ulps.mean())
    index = tuple(map(int, np.unravel_index(int(in_ulps.argmax()), in_ulps.shape)))
    message = ""
    if not worst <= tolerance:
        values = f"{restored[index]:.9g}, reference {ideal[index]:.9g}"
        message = f"dequantized: error of {worst:.3g} ulps (allowed {tolerance:g}) at {index}: {values}"
    elif in_ulps.size >= FEWEST and mean > tolerance * MEAN_SHARE:
        message = f"dequantized: mean error of {mean:.3g} ulps (allowed {tolerance * MEAN_SHARE:g}), worst {worst:.3g}"
    return Verdict(message, worst, mean, str(index))


def _described(array: Any) -> str:
    if array is None:
        return "absent"
    return (
        f"{numpy_dtype(str(array.dtype))}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
    )
