"""How far an output may be from what the reference gives, derived from how rounding errors grow.

The unit is the ulp of an op: `eps(inner dtype) * (scale + inner_scale)`, the scales given by the spec (for a matrix
product the sum of |x||w|), the inner dtype being what kernels must compute in at least: float32, for float64 inputs
float64. An element may be off by `tolerance` ulps, the mean over an output by a quarter of that: the first bound finds
one wrong element among a million, which a mean hides, the second a small error that all elements share, which is no
rounding.

Sums err more. A sum of n terms that are added one after the other is rounded n times, by half an ulp of the partial sum
at most, up or down: a random walk. Over terms of one sign, where it is longest, its standard deviation is

    sqrt(sum_k (k / n)^2) * sqrt(E[1 / m^2] / 3) * size * eps / 2  =  sqrt(n) * size * eps / 8.2

with `size` the sum of the terms' sizes, m the significand of a partial sum, and E[1 / m^2] = 0.54 if its logarithm is
spread evenly. That errors are independent and average to zero is the model of Higham and Mary 2019
(doi:10.1137/18M1226312), who bound the error by `lambda * sqrt(n) * size * eps / 2` in it. An element may be off by six
standard deviations, lambda = 1.5, as there are many; a mean by four, as all elements may share one sum. The spec gives
`sqrt(n) * size` (`sums`), and for a softmax what a long sum loses of terms below half an ulp of it, which is no random
walk. Products of 16-bit numbers are none quite either: they end in few bits, so that ties are common and rounding them
to even goes one way for long. That was seen to add as much again, and twice as much is allowed. Sums by blocks, by
pairs or by lanes are rounded fewer times.

An output of 16 bits is a number of the inner dtype, rounded once. So it is right if some number within these bounds
rounds to it: the rounding costs nothing, and any other step that is done in 16 bits is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm.conformance.example import Example, eps

INEXACT = 2.0**-7
"""In place of the inner dtype's eps for a kernel that rounds activations (exact=False)."""

MEAN_SHARE = 0.25
"""What of the tolerance the mean error may reach."""

SUM_MOST, SUM_MEAN = 6 / 8.2, 4 / 8.2
"""What an element and the mean may be off by the error of a sum, relative to `eps * sums`."""

SMALLEST = 1e-300
"""Of units, so that float64 tells the smallest from those of numbers that are copied, which are 0."""

HALVES = ("float16", "bfloat16")
"""Dtypes narrower than what kernels compute in."""


def step_factor(dtype: str) -> float:
    """How many times as large the errors are of a kernel that rounds to the dtype between its steps."""
    return eps(dtype) / eps("float32") if dtype in HALVES else 1.0


@dataclass(frozen=True)
class Bound:
    """Of one output.

    unit: the ulp, per element, of which an element may be off by `most`. mean_unit: the ulp of the mean, which may be
    off by `MEAN_SHARE` of that.
    """

    unit: Any
    mean_unit: Any
    most: float


def bounds_of(example: Example, exact: bool = True, factor: float = 1.0) -> list[Bound]:
    """The bound of each output of an example.

    exact: False for a kernel that rounds activations, of which less is asked. factor: how many times as wide.
    """
    if exact not in example.units:
        example.units[exact] = [*_units(example, exact)]
    return [Bound(unit, mean_unit, factor * example.spec.tolerance) for unit, mean_unit in example.units[exact]]


def _units(example: Example, exact: bool) -> Iterator[tuple[Any, Any]]:
    """The ulp of each element and that of the mean, of each output."""
    step, tolerance = eps(example.inner_dtype), example.spec.tolerance
    for wanted, scale, inner, sums in zip(
        example.expected, example.scales, example.inner_scales, example.sums, strict=True
    ):
        size = np.abs(wanted if scale is None else scale)
        unit = np.where(size > 0, np.maximum((step if exact else INEXACT) * size, SMALLEST), 0.0)
        more = 0.0 if inner is None else step * np.abs(inner)
        mean_unit = unit
        if sums is not None:
            sums = 2 * sums if example.dtype in HALVES else sums
            unit = np.maximum(unit, SUM_MOST / tolerance * step * sums)
            mean_unit = np.maximum(mean_unit, SUM_MEAN / (tolerance * MEAN_SHARE) * step * sums)
        yield unit + more, mean_unit + more


def half_step(array: Any, towards: Any) -> Any:
    """Half of the distance from each number of a 16-bit array to the next one in a direction, float64: what rounding to
    it may have cost. Nothing for NaN and infinity."""
    given = array.astype(np.float64)
    with np.errstate(all="ignore"):
        next_one = np.nextafter(array, np.asarray(towards).astype(array.dtype)).astype(np.float64)
        return np.where(np.isfinite(given), np.abs(next_one - given) / 2, 0.0)
