"""int8: 8-bit integers around 0, in groups that share a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.affine import Grouped, check_field, divided, permutation_part, unpermute
from tinyllm.catalogue.schemes.bits import per_column
from tinyllm.spec.attribute_checks import integer
from tinyllm.spec.scheme import SCALES, Part, QuantWeight, Scheme

LARGEST = 127


@dataclass(frozen=True)
class Int8(Grouped):
    """`w[n, k] = scales[n, g] * q[n, k]`, `g = k // group_size`.

    arrays: `q` int8 `[..., N, K]`, `scales` `[..., N, K / group_size]`, an optional `permutation` as in `Affine`.
    """

    group_size: int = 64
    name: ClassVar[str] = "int8"
    formula: ClassVar[str] = "w = scale * q, the scale being that of the group"
    source: ClassVar[str] = "Dettmers et al. 2022, arXiv:2208.07339"

    def __post_init__(self) -> None:
        check_field("int8", "group_size", self.group_size, integer(1)(self.group_size))

    def __str__(self) -> str:
        return f"int8/{self.group_size}"

    @property
    def bits_per_weight(self) -> float:
        return 8 + 16 / self.group_size

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        *lead, columns = shape
        scales = Part((*lead, columns // self.group_size), SCALES)
        return {"q": Part(shape, ("int8",)), "scales": scales, "permutation": permutation_part(columns)}

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        scales = per_column(xp, xp.astype(weight.arrays["scales"], dtype), self.group_size)
        return unpermute(xp, weight, xp.astype(weight.arrays["q"], dtype) * scales)

    def quantize(self, xp: Any, w: Any) -> QuantWeight:
        """`scale = max|w| / 127` over a group."""
        groups = xp.reshape(w, (*w.shape[:-1], w.shape[-1] // self.group_size, self.group_size))
        scales = xp.max(xp.abs(groups), axis=-1) / LARGEST
        q = xp.clip(xp.round(divided(xp, w, scales, self.group_size)), -LARGEST, LARGEST)
        return QuantWeight(self, {"q": xp.astype(q, xp.int8), "scales": scales}, tuple(w.shape))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        scales = ((rng.random((*shape[:-1], shape[-1] // self.group_size)) * 0.02 + 0.01) / 16).astype(np.float16)
        q = rng.integers(-LARGEST, LARGEST + 1, shape, dtype=np.int8)
        return QuantWeight(self, {"q": q, "scales": scales}, shape)

    def variants(self) -> tuple[Scheme, ...]:
        return tuple(Int8(group_size) for group_size in (32, 7, 16, 128))
