"""GGUF's first formats: blocks of 32 columns with a float16 scale, and maybe a float16 minimum."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.blocks import Fields, GgufBlocks, half, lookup, unpack_bits
from tinyllm.catalogue.schemes.int8 import Int8

FIFTH_BITS = ((np.arange(256)[:, None] >> np.arange(8) & 1) << 4).astype(np.uint8)
"""The fifth bits, where they belong, of eight numbers by the byte that holds them `[256, 8]`."""


class Q4_0(GgufBlocks):
    """Nibbles around 8."""

    name = "q4_0"
    formula = "w = d * (q - 8)"
    source = "ggml-common.h: block_q4_0"
    block = 32
    fields: ClassVar = {"d": 2, "qs": 16}
    halves: ClassVar = {"d": 0.02}
    affine = Affine(4, 32)
    zero = 8

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return unpack_bits(xp, fields["qs"], 4, 16), half(xp, fields["d"], dtype), None


class Q4_1(GgufBlocks):
    """Nibbles above a minimum."""

    name = "q4_1"
    formula = "w = d * q + m"
    source = "ggml-common.h: block_q4_1"
    block = 32
    fields: ClassVar = {"d": 2, "m": 2, "qs": 16}
    halves: ClassVar = {"d": 0.02, "m": -0.15}
    affine = Affine(4, 32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return unpack_bits(xp, fields["qs"], 4, 16), half(xp, fields["d"], dtype), half(xp, fields["m"], dtype)


class Q5_0(GgufBlocks):
    """Five bits around 16: nibbles, and a bit of each number in `qh`."""

    name = "q5_0"
    formula = "w = d * (q - 16)"
    source = "ggml-common.h: block_q5_0"
    block = 32
    fields: ClassVar = {"d": 2, "qh": 4, "qs": 16}
    halves: ClassVar = {"d": 0.01}
    affine = Affine(5, 32)
    zero = 16

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return _five_bits(xp, fields), half(xp, fields["d"], dtype), None


class Q5_1(GgufBlocks):
    """Five bits above a minimum, kept as in Q5_0."""

    name = "q5_1"
    formula = "w = d * q + m"
    source = "ggml-common.h: block_q5_1"
    block = 32
    fields: ClassVar = {"d": 2, "m": 2, "qh": 4, "qs": 16}
    halves: ClassVar = {"d": 0.01, "m": -0.15}
    affine = Affine(5, 32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return _five_bits(xp, fields), half(xp, fields["d"], dtype), half(xp, fields["m"], dtype)


class Q8_0(GgufBlocks):
    """Signed bytes: those from 128 on wrap when they are cast, as in C."""

    name = "q8_0"
    formula = "w = d * q"
    source = "ggml-common.h: block_q8_0"
    block = 32
    fields: ClassVar = {"d": 2, "qs": 32}
    halves: ClassVar = {"d": 0.00125}
    affine = Int8(32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return xp.astype(fields["qs"], xp.int8), half(xp, fields["d"], dtype), None


def _five_bits(xp: Any, fields: Fields) -> Any:
    nibbles = unpack_bits(xp, fields["qs"], 4, 16)
    return nibbles | xp.reshape(lookup(xp, FIFTH_BITS, fields["qh"]), nibbles.shape)
