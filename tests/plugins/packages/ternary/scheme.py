"""ternary: -1, 0 and 1, five of them a byte, in groups that share a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyllm.plugins import Part, QuantWeight, Scheme, invalid, per_column

DIGITS = 5
"""Digits of base 3 that a byte holds: 3^5 is 243."""
POWERS = 3 ** np.arange(DIGITS)
LARGEST = int(POWERS.sum())
BYTES = (np.arange(-LARGEST, LARGEST + 1)[:, None] + LARGEST) // POWERS % 3 - 1
"""The digits `[243, 5]` of each byte, from the least byte on."""
SCALES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Ternary(Scheme):
    """`w[n, k] = scales[n, g] * t[n, k]`, t being -1, 0 or 1, `g = k // group_size`.

    arrays: `trits` int8 `[..., N, K / 5]`, byte j being the sum of `t[5 j + i] * 3^i`; `scales`
    `[..., N, K / group_size]`.
    """

    group_size: int = 40
    name: ClassVar[str] = "ternary"
    formula: ClassVar[str] = "w = scale * t, t in -1, 0, 1, the scale being that of the group"
    source: ClassVar[str] = "Ma et al. 2024, The Era of 1-bit LLMs, arXiv:2402.17764"

    def __post_init__(self) -> None:
        if self.group_size < 1 or self.group_size % DIGITS:
            raise invalid("ternary", "group_size", f"a multiple of {DIGITS}", self.group_size)

    def __str__(self) -> str:
        return f"ternary/{self.group_size}"

    @property
    def block(self) -> int:
        return self.group_size

    @property
    def bits_per_weight(self) -> float:
        return 8 / DIGITS + 16 / self.group_size

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        *lead, columns = shape
        scales = Part((*lead, columns // self.group_size), SCALES)
        return {"trits": Part((*lead, columns // DIGITS), ("int8",)), "scales": scales}

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        trits = weight.arrays["trits"]
        index = xp.reshape(xp.astype(trits, xp.int64), (prod(trits.shape),)) + LARGEST
        digits = xp.take(xp.asarray(BYTES.astype(np.int8)), index, axis=0)
        scales = per_column(xp, xp.astype(weight.arrays["scales"], dtype), self.group_size)
        return xp.astype(xp.reshape(digits, weight.shape), dtype) * scales

    def quantize(self, xp: Any, w: Any) -> QuantWeight:
        """`scale = mean|w|` over a group, as BitNet b1.58 has it, and `t = round(w / scale)`, at most 1 in size."""
        *lead, columns = w.shape
        scales = xp.mean(xp.abs(xp.reshape(w, (*lead, columns // self.group_size, self.group_size))), axis=-1)
        divisors = per_column(xp, xp.where(scales > 0, scales, xp.ones((), dtype=w.dtype)), self.group_size)
        trits = xp.reshape(xp.clip(xp.round(w / divisors), -1, 1), (*lead, columns // DIGITS, DIGITS))
        powers = xp.astype(xp.asarray(POWERS), w.dtype)
        arrays = {"trits": xp.astype(xp.sum(trits * powers, axis=-1), xp.int8), "scales": scales}
        return QuantWeight(self, arrays, tuple(w.shape))

    def variants(self) -> tuple[Scheme, ...]:
        return (self, Ternary(5), Ternary(80))
