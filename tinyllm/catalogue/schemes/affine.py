"""affine: integers of 2 to 8 bits in groups that share a scale and a bias. It is the format of MLX's
`mlx.core.quantize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.bits import WORD, pack, per_column, unpack
from tinyllm.errors import invalid
from tinyllm.spec.attribute_checks import choice, integer
from tinyllm.spec.scheme import SCALES, Part, QuantWeight, Scheme

BITS = (2, 3, 4, 5, 6, 8)
"""Bits that an affine weight may have."""


class Grouped(Scheme):
    """What `Affine` and `Int8` share: groups of `group_size` columns, which may be stored in another order than the
    inputs have, as a `permutation` says."""

    group_size: int

    @property
    def block(self) -> int:
        return self.group_size

    def check_values(self, weight: QuantWeight, to_numpy: Callable[[Any], np.ndarray]) -> tuple[str, str, str] | None:
        """What is wrong with a permutation that does not name each column once."""
        order, columns = weight.arrays.get("permutation"), weight.shape[-1]
        if order is None or np.array_equal(np.sort(to_numpy(order)), np.arange(columns)):
            return None
        return "permutation", f"each column from 0 to {columns - 1} once", "one twice or past the end"

    def forms(self) -> Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], QuantWeight]]:
        return {**super().forms(), "permuted": self._draw_permuted}

    def _draw_permuted(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        weight = self.draw(rng, shape)
        return weight.with_arrays({**weight.arrays, "permutation": rng.permutation(shape[-1]).astype(np.int32)})


@dataclass(frozen=True)
class Affine(Grouped):
    """`w[n, k] = scales[n, g] * q[n, k] + biases[n, g]`, `g = k // group_size`.

    arrays: `q` uint32 `[..., N, K * bits / 32]`; `scales` and `biases` `[..., N, K / group_size]`; an optional
    `permutation` int32 `[K]` says that column `k` as stored belongs to input `permutation[k]`.
    Packing, bit by bit: a row is one little-endian bit stream, value `k` takes bits `k * bits` to `(k + 1) * bits - 1`
    of it, lowest bit first, and the stream is cut into uint32 words, lowest bits first.
    """

    bits: int = 4
    group_size: int = 64
    name: ClassVar[str] = "affine"
    formula: ClassVar[str] = "w = scale * q + bias, scale and bias those of the group"
    source: ClassVar[str] = "Jacob et al. 2018, arXiv:1712.05877; format as MLX's mlx.core.dequantize"

    def __post_init__(self) -> None:
        check_field("affine", "bits", self.bits, choice(*BITS)(self.bits))
        check_field("affine", "group_size", self.group_size, integer(1)(self.group_size))

    def __str__(self) -> str:
        return f"affine{self.bits}/{self.group_size}"

    @property
    def bits_per_weight(self) -> float:
        return self.bits + 32 / self.group_size

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        *lead, columns = shape
        groups = Part((*lead, columns // self.group_size), SCALES)
        words = Part((*lead, columns * self.bits // WORD), ("uint32",))
        return {"q": words, "scales": groups, "biases": groups, "permutation": permutation_part(columns)}

    def check_parameters(self, shape: tuple[int, ...]) -> str | None:
        if shape[-1] * self.bits % WORD == 0:
            return None
        return f"a multiple of {WORD // gcd(self.bits, WORD)}, so that rows of {self.bits}-bit numbers fill whole words"

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        scales, biases = (
            per_column(xp, xp.astype(weight.arrays[name], dtype), self.group_size) for name in ("scales", "biases")
        )
        q = xp.astype(unpack(xp, weight.arrays["q"], self.bits, weight.shape[-1]), dtype)
        return unpermute(xp, weight, q * scales + biases)

    def quantize(self, xp: Any, w: Any) -> QuantWeight:
        """The ends of a group become the ends of its scale: `bias = min(w)`,
        `scale = (max(w) - min(w)) / (2^bits - 1)`."""
        return self.nearest(xp, w, *self.ends(xp, w))

    def ends(self, xp: Any, w: Any) -> tuple[Any, Any]:
        """The scales and biases of `quantize`, `[..., N, K / group_size]`."""
        groups = xp.reshape(w, (*w.shape[:-1], w.shape[-1] // self.group_size, self.group_size))
        biases = xp.min(groups, axis=-1)
        return (xp.max(groups, axis=-1) - biases) / (2**self.bits - 1), biases

    def nearest(self, xp: Any, w: Any, scales: Any, biases: Any) -> QuantWeight:
        """The weight of these scales and biases whose integers come nearest to floats `[..., N, K]`, in whose dtype it
        is computed."""
        offsets = w - per_column(xp, xp.astype(biases, w.dtype), self.group_size)
        q = divided(xp, offsets, xp.astype(scales, w.dtype), self.group_size)
        words = pack(xp, xp.clip(xp.round(q), 0, 2**self.bits - 1), self.bits)
        return QuantWeight(self, {"q": words, "scales": scales, "biases": biases}, tuple(w.shape))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        """Of the shape that trained weights have: mean 0, deviation about 0.02 * 2**bits."""
        *lead, columns = shape
        groups = (*lead, columns // self.group_size)
        scales = (rng.random(groups) * 0.02 + 0.01).astype(np.float16)
        words = rng.integers(0, 2**WORD, (*lead, columns * self.bits // WORD), dtype=np.uint32)
        biases = (-scales * (2 ** (self.bits - 1) + rng.standard_normal(groups))).astype(np.float16)
        return QuantWeight(self, {"q": words, "scales": scales, "biases": biases}, shape)

    def magnitude(self, weight: QuantWeight) -> np.ndarray:
        """`|scale * q| + |bias|`."""
        sizes = {n: np.abs(a.astype(np.float64)) if n in ("scales", "biases") else a for n, a in weight.arrays.items()}
        size: np.ndarray = self.dequantize(np, weight.with_arrays(sizes), np.float64)
        return size

    def variants(self) -> tuple[Scheme, ...]:
        others = ((4, 8), (5, 16), (3, 64), (6, 128), (8, 7), (2, 64))
        return (*(Affine(bits, 32) for bits in (4, 2, 3, 5, 6, 8)), *(Affine(*pair) for pair in others))


def check_field(scheme: str, field: str, value: object, expected: str | None) -> None:
    """Raises `InvalidInputError` where something was expected of a scheme's parameter."""
    if expected is not None:
        raise invalid(scheme, field, expected, repr(value))


def divided(xp: Any, values: Any, scales: Any, group_size: int) -> Any:
    """`values / scale`, 0 in groups whose scale is 0: all their numbers are the same."""
    safe = xp.where(scales > 0, scales, xp.ones((), dtype=scales.dtype))
    return values / per_column(xp, safe, group_size)


def permutation_part(columns: int) -> Part:
    """The order that columns are stored in, which belongs to all rows."""
    return Part((columns,), ("int32",), optional=True, by_row=False)


def unpermute(xp: Any, weight: QuantWeight, values: Any) -> Any:
    """Columns put where the inputs are: stored column `k` belongs to input `permutation[k]`."""
    permutation = weight.arrays.get("permutation")
    if permutation is None:
        return values
    order = xp.arange(permutation.shape[0])
    here = xp.expand_dims(permutation, axis=1) == xp.expand_dims(order, axis=0)
    inverse = xp.sum(xp.where(here, xp.expand_dims(order, axis=1), xp.asarray(0, dtype=order.dtype)), axis=0)
    return xp.take(values, inverse, axis=-1)
