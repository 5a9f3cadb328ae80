"""Schemes whose codes stand for floats of few bits: fp8 and fp4, and nf4, whose floats are a list of 16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from tinyllm.catalogue.schemes.affine import check_field
from tinyllm.catalogue.schemes.bits import WORD, pack, per_column, unpack
from tinyllm.catalogue.schemes.gguf.codebooks import E2M1
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.spec.attribute_checks import integer
from tinyllm.spec.scheme import SCALES, Part, QuantWeight, Scheme

E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
"""Numbers of 1 sign, 4 exponent and 3 mantissa bits, in the order of their bits; no infinities, and two NaN."""

NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""Quantiles of a normal distribution, scaled to -1..1; source: appendix E of arXiv:2305.14314."""


def look_up(xp: Any, table: np.ndarray, codes: Any, dtype: Any) -> Any:
    """The numbers of a table at codes `[...]`."""
    flat = xp.reshape(xp.astype(codes, xp.int64), (prod(codes.shape),))
    return xp.reshape(xp.take(xp.astype(xp.asarray(table), dtype), flat, axis=0), codes.shape)


def no_nan(part: str, codes: np.ndarray) -> tuple[str, str, str] | None:
    """What is wrong with E4M3 codes that stand for no number."""
    rows = codes.reshape(-1)
    step = 1 << 20  # at a time: a mask of a whole weight would take its memory once more
    if any(bool(((rows[at : at + step] & 127) == 127).any()) for at in range(0, len(rows), step)):
        return part, "numbers", "NaN"
    return None


@dataclass(frozen=True)
class Fp8(Scheme):
    """`w[n, k] = scales[n, g] * e4m3(q[n, k])`, `g = k // group_size`.

    arrays: `q` uint8 `[..., N, K]`, floats of 1 sign, 4 exponent (biased by 7) and 3 mantissa bits without infinities
    (E4M3FN), none of them NaN; `scales` `[..., N, K / group_size]`. Scales that a file has for blocks of rows are
    repeated for each of the rows.
    """

    group_size: int = 128
    name: ClassVar[str] = "fp8"
    formula: ClassVar[str] = "w = scale * q, q of 1 sign, 4 exponent and 3 mantissa bits"
    source: ClassVar[str] = "Micikevicius et al. 2022, arXiv:2209.05433; blocks as DeepSeek-V3, arXiv:2412.19437"

    def __post_init__(self) -> None:
        check_field("fp8", "group_size", self.group_size, integer(1)(self.group_size))

    def __str__(self) -> str:
        return f"fp8/{self.group_size}"

    @property
    def block(self) -> int:
        return self.group_size

    @property
    def bits_per_weight(self) -> float:
        return 8 + 16 / self.group_size

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        scales = Part((*shape[:-1], shape[-1] // self.group_size), SCALES)
        return {"q": Part(shape, ("uint8",)), "scales": scales}

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        scales = per_column(xp, xp.astype(weight.arrays["scales"], dtype), self.group_size)
        return look_up(xp, E4M3, weight.arrays["q"], dtype) * scales

    def check_values(self, weight: QuantWeight, to_numpy: Callable[[Any], np.ndarray]) -> tuple[str, str, str] | None:
        return no_nan("q", to_numpy(weight.arrays["q"]))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        numbers = (rng.standard_normal(shape) * 64).astype(np.float32)
        scales = rng.uniform(0.5, 1.5, (*shape[:-1], shape[-1] // self.group_size)) / 512
        codes = numbers.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        return QuantWeight(self, {"q": codes, "scales": scales.astype(np.float16)}, shape)

    def variants(self) -> tuple[Scheme, ...]:
        return tuple(Fp8(group_size) for group_size in (32, 128, 7))


@dataclass(frozen=True)
class Fp4(Scheme):
    """`w[n, k] = factors[n] * e4m3(scales[n, k // 16]) * e2m1(q[n, k])`.

    arrays: `q` uint32 `[..., N, K / 8]`, floats of 1 sign, 2 exponent (biased by 1) and 1 mantissa bit, the first in
    the lowest bits; `scales` uint8 `[..., N, K / 16]` as the numbers of `fp8`; `factors` float32 `[..., N, 1]`: the
    scale of the whole tensor, repeated so that tensors can be put below one another.
    """

    name: ClassVar[str] = "fp4"
    formula: ClassVar[str] = "w = factor * scale * q, q of 1 sign, 2 exponent and 1 mantissa bit, scale as in fp8"
    source: ClassVar[str] = "NVIDIA 2025, arXiv:2509.25149 (NVFP4); format as MLX's mode nvfp4"
    affine_rounds: ClassVar[bool] = True

    @property
    def block(self) -> int:
        return 16

    @property
    def bits_per_weight(self) -> float:
        return 4.5

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        *lead, columns = shape
        words, scales = Part((*lead, columns // 8), ("uint32",)), Part((*lead, columns // 16), ("uint8",))
        return {"q": words, "scales": scales, "factors": Part((*lead, 1), ("float32",))}

    @property
    def affine(self) -> Int8:
        return Int8(16)

    def as_affine(self, weight: QuantWeight) -> QuantWeight:
        """Twice the codes' numbers are integers; scales are rounded to float32 as in `dequantize`."""
        q = E2M1[unpack(np, weight.arrays["q"], 4, weight.shape[-1])]
        scales = E4M3[weight.arrays["scales"]] * (weight.arrays["factors"] / 2)
        return QuantWeight(self.affine, {"q": q, "scales": scales}, weight.shape, weight.dtype)

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        scales = look_up(xp, E4M3, weight.arrays["scales"], dtype) * xp.astype(weight.arrays["factors"], dtype)
        q = unpack(xp, weight.arrays["q"], 4, weight.shape[-1])
        return look_up(xp, E2M1.astype(np.float32) / 2, q, dtype) * per_column(xp, scales, self.block)

    def check_values(self, weight: QuantWeight, to_numpy: Callable[[Any], np.ndarray]) -> tuple[str, str, str] | None:
        return no_nan("scales", to_numpy(weight.arrays["scales"]))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        *lead, columns = shape
        q = rng.integers(0, 2**WORD, (*lead, columns // 8), dtype=np.uint32)
        scales = rng.integers(0x30, 0x40, (*lead, columns // 16), dtype=np.uint8)  # 0.5 to 1.875
        factors = rng.uniform(0.02, 0.05, (*lead, 1)).astype(np.float32)
        return QuantWeight(self, {"q": q, "scales": scales, "factors": factors}, shape)

    def forms(self) -> Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], QuantWeight]]:
        return {**super().forms(), "factors of 1": self._draw_without_factors}

    def _draw_without_factors(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        """As formats have it that know no scale of the tensor."""
        weight = self.draw(rng, shape)
        scales = weight.arrays["scales"] - np.uint8(0x28)  # 2^-5 of those that are usual
        factors = np.ones_like(weight.arrays["factors"])
        return weight.with_arrays({**weight.arrays, "scales": scales, "factors": factors})


@dataclass(frozen=True)
class Nf4(Scheme):
    """`w[n, k] = scales[n, g] * table[q[n, k]]`, `g = k // group_size`, the table being 16 quantiles of a normal
    distribution.

    arrays: `q` uint32 `[..., N, K / 8]`, places in the table, the first in the lowest bits; `scales`
    `[..., N, K / group_size]`.
    """

    group_size: int = 64
    name: ClassVar[str] = "nf4"
    formula: ClassVar[str] = "w = scale * table[q], table the 16 quantiles of NF4"
    source: ClassVar[str] = "Dettmers et al. 2023, arXiv:2305.14314 (QLoRA)"

    def __post_init__(self) -> None:
        check_field("nf4", "group_size", self.group_size, integer(1)(self.group_size))

    def __str__(self) -> str:
        return f"nf4/{self.group_size}"

    @property
    def block(self) -> int:
        return self.group_size

    @property
    def bits_per_weight(self) -> float:
        return 4 + 16 / self.group_size

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        *lead, columns = shape
        scales = Part((*lead, columns // self.group_size), SCALES)
        return {"q": Part((*lead, columns // 8), ("uint32",)), "scales": scales}

    def check_parameters(self, shape: tuple[int, ...]) -> str | None:
        return None if shape[-1] % 8 == 0 else "a multiple of 8, so that rows fill whole words"

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        scales = per_column(xp, xp.astype(weight.arrays["scales"], dtype), self.group_size)
        return look_up(xp, NF4, unpack(xp, weight.arrays["q"], 4, weight.shape[-1]), dtype) * scales

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        *lead, columns = shape
        q = pack(np, rng.integers(0, 16, shape), 4)
        scales = rng.uniform(0.05, 0.2, (*lead, columns // self.group_size)).astype(np.float16)
        return QuantWeight(self, {"q": q, "scales": scales}, shape)

    def variants(self) -> tuple[Scheme, ...]:
        return Nf4(64), Nf4(32)
