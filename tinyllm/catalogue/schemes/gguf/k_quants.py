"""GGUF's K-quants: blocks of 256 columns whose groups have small integer scales, times a float16 scale of the block."""

from __future__ import annotations

from typing import Any, ClassVar

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.blocks import Fields, GgufBlocks, half, unpack_bits


class Q2_K(GgufBlocks):
    """Groups of 16 columns, each with a byte that holds a scale (low nibble) and a minimum."""

    name = "q2_k"
    formula = "w = d * s * q - dmin * m, s and m the integers of the group of 16"
    source = "ggml-common.h: block_q2_K; llama.cpp pull request 1684"
    fields: ClassVar = {"scales": 16, "qs": 64, "d": 2, "dmin": 2}
    halves: ClassVar = {"d": 0.007, "dmin": 0.01}
    affine = Affine(2, 16)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        scales = xp.astype(fields["scales"] & 15, dtype) * half(xp, fields["d"], dtype)
        minimums = xp.astype(fields["scales"] >> 4, dtype) * half(xp, fields["dmin"], dtype)
        return unpack_bits(xp, fields["qs"], 2, 32), scales, -minimums


class Q3_K(GgufBlocks):
    """Groups of 16 columns with scales of 6 bits around 32; the third bit of a number is in `hmask`."""

    name = "q3_k"
    formula = "w = d * (s - 32) * (q - 4), s the integer of the group of 16"
    source = "ggml-common.h: block_q3_K; llama.cpp pull request 1684"
    fields: ClassVar = {"hmask": 32, "qs": 64, "scales": 12, "d": 2}
    halves: ClassVar = {"d": 0.00125}
    affine = Affine(3, 16)
    zero = 4

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        low, high = unpack_bits(xp, fields["scales"][..., :8], 4, 8), unpack_bits(xp, fields["scales"][..., 8:], 2, 4)
        scales = xp.astype(low | (high << 4), dtype) - 32
        q = unpack_bits(xp, fields["qs"], 2, 32) | (unpack_bits(xp, fields["hmask"], 1, 32) << 2)
        return q, scales * half(xp, fields["d"], dtype), None


class Q4_K(GgufBlocks):
    """Groups of 32 columns with scales and minimums of 6 bits."""

    name = "q4_k"
    formula = "w = d * s * q - dmin * m, s and m the integers of the group of 32"
    source = "ggml-common.h: block_q4_K; llama.cpp pull request 1684"
    fields: ClassVar = {"d": 2, "dmin": 2, "scales": 12, "qs": 128}
    halves: ClassVar = {"d": 0.00034, "dmin": 0.0025}
    affine = Affine(4, 32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return unpack_bits(xp, fields["qs"], 4, 32), *_scales_and_biases(xp, fields, dtype)


class Q5_K(GgufBlocks):
    """As Q4_K, with the fifth bit of each number in `qh`."""

    name = "q5_k"
    formula = "w = d * s * q - dmin * m, s and m the integers of the group of 32"
    source = "ggml-common.h: block_q5_K; llama.cpp pull request 1684"
    fields: ClassVar = {"d": 2, "dmin": 2, "scales": 12, "qh": 32, "qs": 128}
    halves: ClassVar = {"d": 0.00017, "dmin": 0.0025}
    affine = Affine(5, 32)

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        q = unpack_bits(xp, fields["qs"], 4, 32) | (unpack_bits(xp, fields["qh"], 1, 32) << 4)
        return q, *_scales_and_biases(xp, fields, dtype)


class Q6_K(GgufBlocks):
    """Groups of 16 columns with signed bytes as scales; the upper two bits of a number are in `qh`."""

    name = "q6_k"
    formula = "w = d * s * (q - 32), s the integer of the group of 16"
    source = "ggml-common.h: block_q6_K; llama.cpp pull request 1684"
    fields: ClassVar = {"ql": 128, "qh": 64, "scales": 16, "d": 2}
    halves: ClassVar = {"d": 0.00005}
    affine = Affine(6, 16)
    zero = 32

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        scales = xp.astype(xp.astype(fields["scales"], xp.int8), dtype) * half(xp, fields["d"], dtype)
        q = unpack_bits(xp, fields["ql"], 4, 64) | (unpack_bits(xp, fields["qh"], 2, 32) << 4)
        return q, scales, None


def _scales_and_biases(xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any]:
    """Of Q4_K and Q5_K, `[..., blocks, 8]`. Of the 12 bytes, 4 hold the first scales and 4 the first minimums, in their
    lower 6 bits. The last 4 hold nibbles of the other scales and minimums, whose upper 2 bits are those of the first 8
    bytes."""
    scales, minimums, others = (fields["scales"][..., i : i + 4] for i in (0, 4, 8))
    s = xp.concat([scales & 63, (others & 15) | ((scales >> 2) & 48)], axis=-1)
    m = xp.concat([minimums & 63, (others >> 4) | ((minimums >> 2) & 48)], axis=-1)
    d, dmin = half(xp, fields["d"], dtype), half(xp, fields["dmin"], dtype)
    return xp.astype(s, dtype) * d, -(xp.astype(m, dtype) * dmin)
