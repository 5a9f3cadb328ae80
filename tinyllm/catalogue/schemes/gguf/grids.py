"""GGUF's formats of 1 to 3 bits: rows of 4 or 8 numbers are chosen from a grid, that is a table of such rows.

The grids are the gguf package's own; it is imported when a weight of these formats is first used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.gguf.blocks import HALVES, Fields, GgufBlocks, half, integers, lookup, unpack_bits
from tinyllm.catalogue.schemes.int8 import Int8

SIGNS = np.where(np.arange(256)[:, None] >> np.arange(8) & 1, -1, 1).astype(np.int8)
"""Eight signs by the byte that holds them `[256, 8]`: a bit that is set stands for -1."""

EVEN_SIGNS = SIGNS[[i | (i.bit_count() & 1) << 7 for i in range(128)]]
"""Eight signs of 7 bits `[128, 8]`: the last one makes the number of minus signs even."""


@cache
def grid(kind: str) -> np.ndarray:
    """The grid of a format, int8 `[rows, 4 or 8]`."""
    from gguf import quants

    table = getattr(quants, kind)
    table.init_grid()
    rows: np.ndarray = table.grid.reshape(table.grid_shape).astype(np.int8)
    return rows


@cache
def shifted_grid() -> np.ndarray:
    """The grid of IQ1_S and IQ1_M plus an eighth, then minus an eighth, all times 8: int8 `[4096, 8]`."""
    rows = 8 * grid("IQ1_S")
    return np.concatenate([rows + 1, rows - 1])


class IQ2_XXS(GgufBlocks):
    """Groups of 32: four bytes choose rows, and four hold signs (7 bits a row) and a scale (4 bits)."""

    name = "iq2_xxs"
    formula = "w = d * (s + 1/2) / 4 * sign * grid[q], s the integer of the group of 32"
    source = "ggml-common.h: block_iq2_xxs; llama.cpp pull request 4773, after QuIP#, arXiv:2402.04396"
    fields: ClassVar = {"d": 2, "qs": 64}
    halves: ClassVar = {"d": 0.002}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        octets = xp.reshape(fields["qs"], (*fields["qs"].shape[:-1], 8, 8))
        signs, scales = _signs_and_scales(xp, octets[..., 4:], dtype)
        rows = lookup(xp, grid("IQ2_XXS"), octets[..., :4])
        return rows * signs, half(xp, fields["d"], dtype) * (scales + 0.5) * 0.25, None


class IQ2_XS(GgufBlocks):
    """Groups of 16: two bytes hold a row (9 bits) and its signs (7 bits)."""

    name = "iq2_xs"
    formula = "w = d * (s + 1/2) / 4 * sign * grid[q], s the integer of the group of 16"
    source = "ggml-common.h: block_iq2_xs; llama.cpp pull request 4856, after QuIP#, arXiv:2402.04396"
    fields: ClassVar = {"d": 2, "qs": 64, "scales": 8}
    halves: ClassVar = {"d": 0.002}
    affine = Int8(16)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        q = integers(xp, fields["qs"], 2)
        numbers = lookup(xp, grid("IQ2_XS"), q & 511) * lookup(xp, EVEN_SIGNS, q >> 9)
        scales = xp.astype(unpack_bits(xp, fields["scales"], 4, 1), dtype)
        return numbers, half(xp, fields["d"], dtype) * (scales + 0.5) * 0.25, None


class IQ2_S(GgufBlocks):
    """Groups of 16: rows of 10 bits, the upper two in `qh`, and all eight signs of a row."""

    name = "iq2_s"
    formula = "w = d * (s + 1/2) / 4 * sign * grid[q], s the integer of the group of 16"
    source = "ggml-common.h: block_iq2_s; llama.cpp pull request 5721"
    fields: ClassVar = {"d": 2, "qs": 32, "signs": 32, "qh": 8, "scales": 8}
    halves: ClassVar = {"d": 0.002}
    affine = Int8(16)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        q = _joined(xp, fields["qs"], unpack_bits(xp, fields["qh"], 2, 1))
        numbers = lookup(xp, grid("IQ2_S"), q) * lookup(xp, SIGNS, fields["signs"])
        scales = xp.astype(unpack_bits(xp, fields["scales"], 4, 1), dtype)
        return numbers, half(xp, fields["d"], dtype) * (scales + 0.5) * 0.25, None


class IQ3_XXS(GgufBlocks):
    """Groups of 32: bytes choose rows of 4; signs and scales are kept as in IQ2_XXS."""

    name = "iq3_xxs"
    formula = "w = d * (s + 1/2) / 2 * sign * grid[q], s the integer of the group of 32"
    source = "ggml-common.h: block_iq3_xxs; llama.cpp pull request 5196"
    fields: ClassVar = {"d": 2, "qs": 64, "signs_and_scales": 32}
    halves: ClassVar = {"d": 0.0006}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        octets = xp.reshape(fields["signs_and_scales"], (*fields["d"].shape[:-1], 8, 4))
        signs, scales = _signs_and_scales(xp, octets, dtype)
        rows = lookup(xp, grid("IQ3_XXS"), fields["qs"])
        return xp.reshape(rows, signs.shape) * signs, half(xp, fields["d"], dtype) * (scales + 0.5) * 0.5, None


class IQ3_S(GgufBlocks):
    """Groups of 32: rows of 9 bits, the ninth in `qh`, and all signs."""

    name = "iq3_s"
    formula = "w = d * (2 * s + 1) * sign * grid[q], s the integer of the group of 32"
    source = "ggml-common.h: block_iq3_s; llama.cpp pull request 5676"
    fields: ClassVar = {"d": 2, "qs": 64, "qh": 8, "signs": 32, "scales": 4}
    halves: ClassVar = {"d": 0.0006}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        rows = lookup(xp, grid("IQ3_S"), _joined(xp, fields["qs"], unpack_bits(xp, fields["qh"], 1, 1)))
        signs = lookup(xp, SIGNS, fields["signs"])
        scales = xp.astype(unpack_bits(xp, fields["scales"], 4, 1), dtype)
        return xp.reshape(rows, signs.shape) * signs, half(xp, fields["d"], dtype) * (scales * 2 + 1), None


class IQ1_S(GgufBlocks):
    """Groups of 32: two bytes of `qh` hold the upper 3 bits of four rows, a scale of 3 bits and the shift's sign."""

    name = "iq1_s"
    formula = "w = d * (2 * s + 1) * (grid[q] + shift), s the integer and shift 1/8 or -1/8 of the group of 32"
    source = "ggml-common.h: block_iq1_s; llama.cpp pull request 5453"
    fields: ClassVar = {"d": 2, "qs": 32, "qh": 16}
    halves: ClassVar = {"d": 0.02}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        qh = integers(xp, fields["qh"], 2)[..., None]
        high = ((qh >> xp.asarray(np.array([0, 3, 6, 9]))) & 7) | ((qh >> 15) << 3)
        q = _joined(xp, fields["qs"], xp.reshape(high, fields["qs"].shape))
        scales = xp.astype((qh[..., 0] >> 12) & 7, dtype) * 2 + 1
        return lookup(xp, shifted_grid(), q), half(xp, fields["d"], dtype) * scales * 0.125, None


class IQ1_M(GgufBlocks):
    """Groups of 16: nibbles of `qh` hold the upper 3 bits of a row and the sign of its shift. Every two bytes of
    `scales` hold four scales of 3 bits, and a nibble of the float16 scale of the block."""

    name = "iq1_m"
    formula = "w = d * (2 * s + 1) * (grid[q] + shift), s the integer of the group of 16, shift 1/8 or -1/8 of the row"
    source = "ggml-common.h: block_iq1_m; llama.cpp pull request 6302"
    fields: ClassVar = {"qs": 32, "qh": 16, "scales": 8}
    affine = Int8(16)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        q = _joined(xp, fields["qs"], unpack_bits(xp, fields["qh"], 4, 1))
        packed = integers(xp, fields["scales"], 2)
        d = xp.astype(lookup(xp, HALVES, sum((packed[..., i : i + 1] >> 12) << (4 * i) for i in range(4))), dtype)
        scales = (packed[..., None] >> xp.asarray(np.array([0, 3, 6, 9]))) & 7
        scales = xp.reshape(xp.astype(scales, dtype), (*packed.shape[:-1], 16)) * 2 + 1
        return lookup(xp, shifted_grid(), q), d * scales * 0.125, None

    def draw_fields(self, rng: np.random.Generator, blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Float16 scales near 0.02, their nibbles spread over `scales`."""
        fields = super().draw_fields(rng, blocks)
        d = rng.uniform(0.01, 0.03, (*blocks, 1)).astype(np.float16).view(np.uint16)
        nibbles = d >> np.array([0, 4, 8, 12], np.uint16) << np.uint16(12)
        scales = (fields["scales"].view("<u2") & np.uint16(0x0FFF)) | nibbles
        return {**fields, "scales": scales.astype("<u2").view(np.uint8)}


def _signs_and_scales(xp: Any, octets: Any, dtype: Any) -> tuple[Any, Any]:
    """Signs int8 `[..., groups, 4, 8]`, of 7 bits for each 8, and scales `[..., groups]` of the upper 4 bits."""
    packed = integers(xp, octets, 4)
    signs = lookup(xp, EVEN_SIGNS, (packed >> xp.asarray(np.array([0, 7, 14, 21]))) & 127)
    return signs, xp.astype(packed[..., 0] >> 28, dtype)


def _joined(xp: Any, low: Any, high: Any) -> Any:
    """Integers whose lower 8 bits are bytes, and the bits above."""
    return xp.astype(low, xp.int64) | (xp.astype(high, xp.int64) << 8)
