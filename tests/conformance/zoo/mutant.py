"""A mutant: a kernel that is right but for one mistake, such as real kernels make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tinyllm.spec.scheme import Scheme


@dataclass(frozen=True)
class Mutant:
    """A wrong kernel of one op.

    function: the op, right; with `mistake=name` it makes the mistake called so.
    tier: the smallest one whose cases show it; properties may, sooner.
    caught_by: the aspect of the kit that does so first, by its name in `collect.ASPECTS`; `origin`: not failed, but
    counted apart. also_by: those that would do so without it.
    library: whose arrays the function takes: `numpy` or `torch`.
    kernel, spec: what is wrong beside the function: settings of the `Kernel`, fields of the op's `OpSpec`.
    beside: a right kernel is there too, and chosen before this one.
    schemes: those whose weights the function takes as they are, beside dense ones.
    """

    name: str
    op: str
    about: str
    function: Callable[..., Any]
    tier: str = "smoke"
    caught_by: str = "values"
    also_by: tuple[str, ...] = ()
    library: str = "numpy"
    kernel: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    beside: bool = False
    schemes: tuple[Scheme, ...] = ()

    @property
    def wrong(self) -> Callable[..., Any]:
        """The kernel with the mistake."""
        return partial(self.function, mistake=self.name)


def wide(array: np.ndarray) -> np.ndarray:
    """16-bit numbers as float32, all else as it is: what kernels must compute in at least."""
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def memory(array: np.ndarray) -> np.ndarray:
    """What lies where an array's memory begins, read as if the array had it for itself."""
    base: np.ndarray = array if array.base is None else array.base
    flat: np.ndarray = base.reshape(-1)[: array.size]
    return flat.reshape(array.shape) if flat.size == array.size else array


def summed_in_float16(products: np.ndarray) -> np.ndarray:
    """The sum over the last axis, rounded to float16 after each addition."""
    total: np.ndarray = (
        np.add.accumulate(products.astype(np.float16), axis=-1)[..., -1:].sum(axis=-1).astype(products.dtype)
    )
    return total
