"""Is an output right? Each element and the mean of all are held against the bounds (`bounds.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyllm.conformance.bounds import HALVES, MEAN_SHARE, Bound, bounds_of, half_step
from tinyllm.conformance.example import Example, eps, tiny, widen
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.quantized import dense
from tinyllm.spec.scheme import QuantWeight
from tinyllm.spec.validation import output_types

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
    both_err = against is not None or (example.spec.sums is not None and example.dtype == "float64")
    roundings = 0 if not exact else 1 if against is None else 2
    verdicts = []
    bounds = bounds_of(example, exact, factor * (2 if both_err else 1))
    for i, (output, wanted, kind, bound) in enumerate(zip(outputs, expected, types, bounds, strict=True)):
        if isinstance(wanted, QuantWeight):
            verdict = _judge_quant(output, wanted, example.scales[i], example.call.dims["dtype of T"][1], bound.most)
        elif not isinstance(output, np.ndarray) or (str(output.dtype), output.shape) != (kind.dtype, kind.shape):
            verdict = Verdict(f"{_described(output)} instead of {kind.dtype}{list(kind.shape)}")
        elif wanted.shape != kind.shape:
            verdict = Verdict(f"the reference gives {list(wanted.shape)}, the spec says {list(kind.shape)}")
        elif not kind.dtype.startswith(("float", "bfloat")):
            verdict = Verdict(
                "" if np.array_equal(output, wanted) else f"{np.sum(output != wanted)} of {wanted.size} values differ"
            )
        else:
            verdict = judge_array(output, np.asarray(wanted), bound, roundings)
        if verdict.message:
            prefix = f"output {i}: " if len(outputs) > 1 else ""
            return replace(verdict, message=prefix + verdict.message, bound=bound.most)
        verdicts.append(replace(verdict, bound=bound.most))
    return max(verdicts, key=lambda v: v.worst, default=Verdict())


def judge_array(output: Any, wanted: Any, bound: Bound, rounded: int = 1) -> Verdict:
    """An array against what the reference gives in float64, or another kernel. Tolerance 0 means the same numbers.

    rounded: how many of the two were rounded to the 16 bits that they are of.
    """
    with np.errstate(all="ignore"):
        nearest, given = wanted.astype(output.dtype).astype(np.float64), output.astype(np.float64)
    strange = ~np.isfinite(nearest)
    agree = (given == nearest) | (np.isnan(given) & np.isnan(nearest))
    fine = agree | np.where(strange, False, np.isfinite(given))
    if not np.all(fine):
        index = tuple(int(i[0]) for i in np.nonzero(~fine))
        message = (
            f"{given[index]} at {index} where the reference has {nearest[index]}; {np.sum(~fine)} of "
            f"{fine.size} are like that"
        )
        return Verdict(message, np.inf, np.inf, str(index))
    if bound.most == 0:  # what is copied is copied as it is, or rounded to the nearest
        wanted = nearest
    errors = np.abs(np.where(strange, 0.0, given) - np.where(strange, 0.0, wanted))
    if bound.most > 0:
        allowed = flushed(str(output.dtype))
        if str(output.dtype) in HALVES and rounded:
            allowed = allowed + rounded * half_step(output, np.where(wanted > given, np.inf, -np.inf))
        errors = np.maximum(errors - np.where(bound.unit > 0, allowed, 0.0), 0.0)
    return _held(errors, bound, given, wanted)


def _held(errors: Any, bound: Bound, given: Any, wanted: Any) -> Verdict:
    """Errors against the two bounds: of each element, and of the mean of all."""
    if not errors.size:
        return Verdict()
    with np.errstate(all="ignore"):
        in_ulps, shares = (np.where(errors == 0, 0.0, errors / unit) for unit in (bound.unit, bound.mean_unit))
    worst, mean, most_mean = float(in_ulps.max()), float(shares.mean()), bound.most * MEAN_SHARE
    index = tuple(map(int, np.unravel_index(int(in_ulps.argmax()), in_ulps.shape)))
    message = ""
    if not worst <= bound.most:
        off = f"{np.sum(~(in_ulps <= bound.most))} of {in_ulps.size} are off"
        values = f"{given[index]:.9g}, reference {wanted[index]:.9g}; {off}"
        message = f"error of {worst:.3g} ulps (allowed {bound.most:g}) at {index}: {values}"
    elif in_ulps.size >= FEWEST and mean > most_mean:
        message = f"mean error of {mean:.3g} ulps (allowed {most_mean:g}), worst {worst:.3g}"
    return Verdict(message, worst, mean, str(index))


def flushed(dtype: str) -> float:
    """What libraries may flush to 0: subnormal numbers, in float16 the last bit of them."""
    return 2 * tiny(dtype) * (eps(dtype) if dtype == "float16" else 1.0)


def _judge_quant(output: Any, wanted: QuantWeight, scale: Any, dtype: str, most: float) -> Verdict:
    """A quantized weight is judged by its format and by what it gives back dequantized."""
    if not isinstance(output, QuantWeight):
        return Verdict(f"{type(output).__name__} instead of a QuantWeight")
    for name, right in (("scheme", wanted.scheme), ("shape", wanted.shape), ("dtype", dtype)):
        if getattr(output, name) != right:
            return Verdict(f"{name} {getattr(output, name)} instead of {right}")
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
    unit = eps(floats) * np.maximum(scale, 1e-30)
    verdict = _held(np.abs(restored - ideal), Bound(unit, unit, most), restored, ideal)
    return replace(verdict, message=f"dequantized: {verdict.message}" if verdict.message else "")


def _described(array: Any) -> str:
    if array is None:
        return "absent"
    return (
        f"{numpy_dtype(str(array.dtype))}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
    )
