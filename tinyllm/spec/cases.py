"""Valid and invalid calls that an op states, and the draws that make their inputs.

A draw is data (a shape) with a recipe, so that costs can be told without making anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tinyllm.spec.scheme import Scheme


@dataclass(frozen=True)
class Draw:
    """How a test input is made: `make(rng)` gives float64, integer or bool numpy, or a `QuantWeight`; `shape` for
    costs."""

    shape: tuple[int, ...]
    make: Callable[[Any], Any]
    dtype: str = ""
    """The float dtype that the numbers keep; empty: that of the test."""


@dataclass(frozen=True)
class Case:
    """A valid call. `id` reads like `B2,Hq4,L3,causal`; tier is "smoke", "full", "model" or "bench"."""

    id: str
    inputs: Mapping[str, Draw]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tier: str = "smoke"
    decision: int | None = None
    """The numbered decision of the op semantics that this case shows."""

    @property
    def size(self) -> int:
        """How many numbers its inputs have."""
        return sum(prod(draw.shape) for draw in self.inputs.values() if hasattr(draw, "shape"))


@dataclass(frozen=True)
class BadInput:
    """An invalid call and the error it must give, before any backend sees it."""

    id: str
    inputs: Mapping[str, Any]
    attributes: Mapping[str, Any]
    error: type[Exception]
    match: str
    decision: int | None = None


def normal(*shape: int, scale: float = 1.0) -> Draw:
    """Standard normal floats times `scale`; the test rounds them to its dtype."""
    return Draw(shape, lambda rng: rng.standard_normal(shape) * scale)


def poisoned(hidden: Any, *shape: int) -> Draw:
    """Standard normal floats, NaN where nobody may read: where `hidden`, broadcastable to the shape, is True."""
    return Draw(shape, lambda rng: np.where(hidden, np.nan, rng.standard_normal(shape)))


def kept(draw: Draw, dtype: str) -> Draw:
    """The same numbers in a float dtype of their own, whatever the test's."""
    return Draw(draw.shape, draw.make, dtype)


def integers(low: int, high: int, *shape: int) -> Draw:
    """int32 from `low` to `high - 1`."""
    return Draw(shape, lambda rng: rng.integers(low, high, shape, dtype=np.int32))


def integers_of(dtype: str, high: int, *shape: int) -> Draw:
    """Integers from 0 to `high - 1` of a dtype."""
    return Draw(shape, lambda rng: np.asarray(rng.integers(0, high, shape), dtype))


def booleans(*shape: int, share: float = 0.7) -> Draw:
    """True with probability `share`."""
    return Draw(shape, lambda rng: rng.random(shape) < share)


def additive_mask(*shape: int, level: float = 0.0) -> Draw:
    """Normal floats around a level, a fifth of them -inf."""
    return Draw(shape, lambda rng: np.where(rng.random(shape) < 0.2, -np.inf, level + rng.standard_normal(shape)))


def constant(values: Any, dtype: str | None = None) -> Draw:
    """The numbers themselves."""
    array = np.asarray(values, dtype)
    return Draw(array.shape, lambda rng: array.copy())


def quantized(scheme: Scheme, *shape: int) -> Draw:
    """A random weight of a scheme."""
    return Draw(shape, lambda rng: scheme.draw(rng, shape))
