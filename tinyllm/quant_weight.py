"""A quantised weight as data: its scheme, its packed numbers and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class QuantWeight:
    """A matrix `[N, K]` (or a stack `[..., N, K]`) whose rows are quantised in groups along K.

    scheme "affine": `w[n, k] = scales[n, g] * q[n, k] + biases[n, g]`, `g = k // group_size`, computed in float32.
        arrays: `q` uint32 `[..., N, K * bits / 32]`, `scales` and `biases` float16 or float32 `[..., N, K / group_size]`,
        optional `permutation` int32 `[K]` (column `k` of the packed matrix belongs to input `permutation[k]`).
        Packing, bit by bit: a row is one little-endian bit stream, value `k` takes bits `k * bits` to `(k + 1) * bits - 1`
        of it, lowest bit first, and the stream is cut into uint32 words, lowest bits first. That is MLX's format.
    scheme "int8": `w[n, k] = scales[n, g] * q[n, k]`, symmetric. arrays: `q` int8 `[..., N, K]`, `scales` `[..., N, K / group_size]`.

    Further schemes come by plugin; `arrays` then holds what that scheme says.
    """

    scheme: str
    arrays: Mapping[str, Any]
    bits: int
    group_size: int
    shape: tuple[int, ...]

    def with_arrays(self, arrays: Mapping[str, Any]) -> QuantWeight:
        """The same weight with its arrays replaced, e.g. by a backend's native ones."""
        return QuantWeight(self.scheme, arrays, self.bits, self.group_size, self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(int(array.nbytes) for array in self.arrays.values())

    def describe(self) -> str:
        """A short name for tables: `affine4/32` is 4 bits, groups of 32."""
        return f"{self.scheme}{self.bits}/{self.group_size}"
