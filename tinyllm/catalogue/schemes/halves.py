"""Weights of 16 bits as they are stored, where activations are wider: each number is widened as it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import Part, QuantWeight, Scheme


class _Halves(Scheme):
    """`w[n, k] = q[n, k]`, exactly. arrays: `q` `[..., N, K]` of the dtype that the scheme is named after, or float32
    where a backend has no such numbers."""

    @property
    def block(self) -> int:
        return 1

    @property
    def bits_per_weight(self) -> float:
        return 16

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        return {"q": Part(shape, (self.name, "float32"))}

    def forms(self) -> Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], QuantWeight]]:
        return {"": self.draw}

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        return xp.astype(weight.arrays["q"], dtype)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        numbers = rng.standard_normal(shape) * 0.1
        return self.of(numbers.astype(numpy_dtype(self.name)), "float32")

    def of(self, numbers: np.ndarray, dtype: str) -> QuantWeight:
        """An array of the dtype as a weight whose numbers are given in a wider one."""
        return QuantWeight(self, {"q": numbers}, numbers.shape, dtype)


@dataclass(frozen=True)
class Float16(_Halves):
    """IEEE's half precision."""

    name: ClassVar[str] = "float16"
    formula: ClassVar[str] = "w = q, in float16"
    source: ClassVar[str] = "IEEE 754-2019, binary16"


@dataclass(frozen=True)
class BFloat16(_Halves):
    """The upper halves of float32 numbers."""

    name: ClassVar[str] = "bfloat16"
    formula: ClassVar[str] = "w = q, in bfloat16"
    source: ClassVar[str] = "Kalamkar et al. 2019, arXiv:1905.12322"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        """Every other column is of numbers smaller than float16 has."""
        usual = super().draw(rng, shape).arrays["q"]
        sizes = np.where(np.arange(shape[-1]) % 2, 1, 2.0**-30)
        return self.of((usual.astype(np.float32) * sizes).astype(usual.dtype), "float32")


HALVES = {scheme.name: scheme for scheme in (Float16(), BFloat16())}
"""The schemes by the dtypes that they keep."""
