"""GGUF's formats whose nibbles are positions in a list of 16 numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.gguf.blocks import Fields, GgufBlocks, half, lookup, unpack_bits
from tinyllm.catalogue.schemes.int8 import Int8

NON_LINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""Numbers of IQ4_NL and IQ4_XS."""

E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""Twice the float numbers of 2 exponent bits and 1 mantissa bit."""

E8M0 = np.exp2(np.arange(256) - 128.0).astype(np.float32)
"""Half the numbers of 8 exponent bits and nothing else."""


class IQ4_NL(GgufBlocks):
    """Blocks of 32 columns with a float16 scale."""

    name = "iq4_nl"
    formula = "w = d * table[q], table the 16 numbers from -127 to 113 of ggml's kvalues_iq4nl"
    source = "ggml-common.h: block_iq4_nl; llama.cpp pull request 5590"
    block = 32
    fields: ClassVar = {"d": 2, "qs": 16}
    halves: ClassVar = {"d": 0.00125}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return _numbers(xp, NON_LINEAR, fields["qs"]), half(xp, fields["d"], dtype), None


class IQ4_XS(GgufBlocks):
    """Blocks of 256 columns, groups of 32 with scales of 6 bits around 32."""

    name = "iq4_xs"
    formula = "w = d * (s - 32) * table[q], s the integer of the group of 32, table as for iq4_nl"
    source = "ggml-common.h: block_iq4_xs; llama.cpp pull request 5747"
    fields: ClassVar = {"d": 2, "scales_h": 2, "scales_l": 4, "qs": 128}
    halves: ClassVar = {"d": 0.00005}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        scales = unpack_bits(xp, fields["scales_l"], 4, 1) | (unpack_bits(xp, fields["scales_h"], 2, 1) << 4)
        scales = (xp.astype(scales, dtype) - 32) * half(xp, fields["d"], dtype)
        return _numbers(xp, NON_LINEAR, fields["qs"]), scales, None


class MXFP4(GgufBlocks):
    """Blocks of 32 floats of 4 bits, with a power of two as their scale."""

    name = "mxfp4"
    formula = "w = 2^(e - 127) * q, q of 1 sign, 2 exponent and 1 mantissa bit"
    source = "OCP Microscaling Formats (MX) Specification 1.0, arXiv:2310.10537; ggml-common.h: block_mxfp4"
    block = 32
    fields: ClassVar = {"e": 1, "qs": 16}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        scales = xp.astype(lookup(xp, E8M0, fields["e"]), dtype)
        return _numbers(xp, E2M1, fields["qs"]), scales, None

    def draw_fields(self, rng: np.random.Generator, blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Exponents from -7 to -4."""
        return {**super().draw_fields(rng, blocks), "e": rng.integers(120, 124, (*blocks, 1), dtype=np.uint8)}


def _numbers(xp: Any, table: np.ndarray, octets: Any) -> Any:
    return lookup(xp, table, unpack_bits(xp, octets, 4, 16))
