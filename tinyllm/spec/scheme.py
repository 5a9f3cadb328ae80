"""Scheme: everything that is said about a way to quantize weights, said once; and QuantWeight, a weight held that way.

Checks, cases and docs are derived from a scheme, as those of an op are from its spec.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tinyllm.errors import UnsupportedError
from tinyllm.spec.dtypes import numpy_dtype

SCALES = ("float16", "bfloat16", "float32")
"""Dtypes that scales are stored in."""


@dataclass(frozen=True)
class Part:
    """One array of a quantized weight.

    dtypes: those it may have. Parts that may have several must all have the same.
    by_row: its axis before the last one counts the rows of the weight, so that rows can be taken and stacked.
    """

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    optional: bool = False
    by_row: bool = True


@dataclass(frozen=True)
class Scheme(ABC):
    """How the numbers of a weight `[..., N, K]` are held. A subclass is a frozen dataclass whose fields are its
    parameters.

    name: what errors, reports and docs call it; no two schemes share one.
    formula, source: of the numbers that a weight stands for, as docs/schemes.md shows them.
    affine_rounds: whether `as_affine` rounds to float32, so that calls in float64 do without it.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    affine_rounds: ClassVar[bool] = False

    def __str__(self) -> str:
        """The name with the parameters: `affine4/32`."""
        return self.name

    @property
    def parameters(self) -> Mapping[str, int]:
        """What sets the schemes of one name apart: the fields, unless overridden."""
        return asdict(self)

    @property
    @abstractmethod
    def block(self) -> int:
        """Columns that are quantized together: the length of a row is a multiple of it."""

    @property
    @abstractmethod
    def bits_per_weight(self) -> float:
        """Bits that a number takes in memory, scales included."""

    @abstractmethod
    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        """The arrays of a weight of a shape, by name."""

    @abstractmethod
    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        """The numbers `[..., N, K]` that a weight stands for, computed in `dtype`: float32 or float64 of the namespace.

        This is the scheme's reference, so it uses the functions of `tinyllm.spec.reference_profile` alone.
        """

    def quantize(self, xp: Any, w: Any) -> QuantWeight:
        """The weight nearest to floats `[..., N, K]`, scales in the dtype of `w`. Raises `UnsupportedError` unless
        overridden."""
        raise UnsupportedError(f"quantize: scheme: {self.name} has no way to make weights, it only reads them")

    @property
    def can_quantize(self) -> bool:
        """Whether `quantize` is there."""
        return type(self).quantize is not Scheme.quantize

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        """A random weight of numpy arrays, for cases. A scheme that cannot quantize has to override this."""
        weight = self.quantize(np, rng.standard_normal(shape).astype(np.float32))
        arrays = {n: a.astype(np.float16) if a.dtype.kind == "f" else a for n, a in weight.arrays.items()}
        return weight.with_arrays(arrays)

    def magnitude(self, weight: QuantWeight) -> np.ndarray:
        """What the rounding errors of dequantized numbers are relative to, float64 `[..., N, K]`, for a weight of numpy
        arrays.

        The numbers' own size; a scheme whose formula adds terms that may cancel gives the sum of their sizes.
        """
        size: np.ndarray = np.abs(self.dequantize(np, weight, np.float64))
        return size

    @property
    def affine(self) -> Scheme | None:
        """The scheme of the core that `as_affine` gives, if the very same numbers can be held in one: `Affine` or
        `Int8`."""
        return None

    def as_affine(self, weight: QuantWeight) -> QuantWeight:
        """The same numbers in the scheme `affine`, exactly unless `affine_rounds`; numpy arrays in, numpy arrays out.
        Kernels that know the core's schemes alone run the weight by it."""
        raise UnsupportedError(f"{self.name}: cannot be held as affine numbers")

    def forms(self) -> Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], QuantWeight]]:
        """Ways that weights of the scheme may look, by name; a case tries each. By default scales of each dtype."""
        forms = {"": self.draw}
        if any(len(part.dtypes) > 1 for part in self.parts((1, self.block)).values()):
            forms |= {f"{dtype} scales": partial(self._draw_with_scales, dtype) for dtype in ("float32", "bfloat16")}
        return forms

    def _draw_with_scales(self, dtype: str, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        """Scales that float16 does not hold."""
        weight, third = self.draw(rng, shape), np.float32(1 / 3)
        scaled = {n: (a.astype(np.float32) * third).astype(numpy_dtype(dtype)) for n, a in weight.arrays.items()}
        kinds = self.parts(shape)
        return weight.with_arrays({n: scaled[n] if len(kinds[n].dtypes) > 1 else a for n, a in weight.arrays.items()})

    def variants(self) -> tuple[Scheme, ...]:
        """The parameters that conformance tries; by default those of this object alone."""
        return (self,)

    def check_parameters(self, shape: tuple[int, ...]) -> str | None:
        """What is expected of the row length beside `block`, or None where it is fine."""
        return None

    def check_values(self, weight: QuantWeight, to_numpy: Callable[[Any], np.ndarray]) -> tuple[str, str, str] | None:
        """(part, expected, got) where numbers inside the arrays contradict the scheme; None where they do not."""
        return None


@dataclass(frozen=True)
class QuantType:
    """What a `QuantWeight` looks like from outside."""

    shape: tuple[int | str, ...]
    scheme: Scheme
    dtype: str = "float32"
    """The float dtype that its numbers are given in."""

    def __str__(self) -> str:
        return f"{self.scheme}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class QuantWeight:
    """A matrix `[N, K]` (or a stack `[..., N, K]`) whose numbers are held as a scheme says.

    arrays: the scheme's parts, numpy's or a backend's. dtype: the float dtype that the numbers are given in.
    """

    scheme: Scheme
    arrays: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def type(self) -> QuantType:
        """What is seen of it from outside."""
        return QuantType(tuple(self.shape), self.scheme, self.dtype)

    def with_arrays(self, arrays: Mapping[str, Any]) -> QuantWeight:
        """The same weight with its arrays replaced, e.g. by a backend's native ones."""
        return replace(self, arrays=arrays)

    def rows(self, take: Callable[[Any], Any], lead: tuple[int, ...]) -> QuantWeight:
        """Rows `[*lead, K]` of a table, still quantized; `take` picks them out of an array that has all of them."""
        parts = self.scheme.parts(self.shape)
        arrays = {name: take(array) if parts[name].by_row else array for name, array in self.arrays.items()}
        return replace(self, arrays=arrays, shape=(*lead, self.shape[-1]))

    def matrix(self, number: int) -> QuantWeight:
        """One of a stack `[E, N, K]`, still quantized: its arrays are views where indexing gives such."""
        return self.rows(lambda array: array[number, ...], self.shape[1:-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(int(array.nbytes) for array in self.arrays.values())
