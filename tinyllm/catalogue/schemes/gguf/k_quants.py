"""GGUF's K-quants: blocks of 256 columns whose groups have small integer scales, times a float16 scale of the block."""

from __future__ import annotations

from typing import Any

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.blocks import Block, GgufBlocks


def _scales_around_32(block: Block) -> Any:
    """Of Q3_K, `[..., blocks, 16]`: 8 bytes hold the lower nibbles, and 4 the upper two bits."""
    low, high = block.bits(block["scales"][..., :8], 4, 8), block.bits(block["scales"][..., 8:], 2, 4)
    return (block.number(low | (high << 4)) - 32) * block.half("d")


def _scales(block: Block) -> Any:
    """Of Q4_K and Q5_K, `[..., blocks, 8]`. Of the 12 bytes, 4 hold the first scales and 4 the first minimums, in their
    lower 6 bits. The last 4 hold nibbles of the other scales and minimums, whose upper 2 bits are those of the first 8
    bytes."""
    first, others = block["scales"][..., :4], block["scales"][..., 8:]
    scales = block.xp.concat([first & 63, (others & 15) | ((first >> 2) & 48)], axis=-1)
    return block.number(scales) * block.half("d")


def _biases(block: Block) -> Any:
    """The minimums, as `_scales` says."""
    first, others = block["scales"][..., 4:8], block["scales"][..., 8:]
    minimums = block.xp.concat([first & 63, (others >> 4) | ((first >> 2) & 48)], axis=-1)
    return -(block.number(minimums) * block.half("dmin"))


K_QUANTS = (
    GgufBlocks(
        name="q2_k",
        about="Groups of 16 columns, each with a byte that holds a scale (low nibble) and a minimum.",
        formula="w = d * s * q - dmin * m, s and m the integers of the group of 16",
        source="ggml-common.h: block_q2_K; llama.cpp pull request 1684",
        fields={"scales": 16, "qs": 64, "d": 2, "dmin": 2},
        halves={"d": 0.007, "dmin": 0.01},
        affine=Affine(2, 16),
        q=lambda block: block.bits(block["qs"], 2, 32),
        scales=lambda block: block.number(block["scales"] & 15) * block.half("d"),
        biases=lambda block: -(block.number(block["scales"] >> 4) * block.half("dmin")),
    ),
    GgufBlocks(
        name="q3_k",
        about="Groups of 16 columns with scales of 6 bits around 32; the third bit of a number is in `hmask`.",
        formula="w = d * (s - 32) * (q - 4), s the integer of the group of 16",
        source="ggml-common.h: block_q3_K; llama.cpp pull request 1684",
        fields={"hmask": 32, "qs": 64, "scales": 12, "d": 2},
        halves={"d": 0.00125},
        affine=Affine(3, 16),
        zero=4,
        q=lambda block: block.bits(block["qs"], 2, 32) | (block.bits(block["hmask"], 1, 32) << 2),
        scales=_scales_around_32,
    ),
    GgufBlocks(
        name="q4_k",
        about="Groups of 32 columns with scales and minimums of 6 bits.",
        formula="w = d * s * q - dmin * m, s and m the integers of the group of 32",
        source="ggml-common.h: block_q4_K; llama.cpp pull request 1684",
        fields={"d": 2, "dmin": 2, "scales": 12, "qs": 128},
        halves={"d": 0.00034, "dmin": 0.0025},
        affine=Affine(4, 32),
        q=lambda block: block.bits(block["qs"], 4, 32),
        scales=_scales,
        biases=_biases,
    ),
    GgufBlocks(
        name="q5_k",
        about="As Q4_K, with the fifth bit of each number in `qh`.",
        formula="w = d * s * q - dmin * m, s and m the integers of the group of 32",
        source="ggml-common.h: block_q5_K; llama.cpp pull request 1684",
        fields={"d": 2, "dmin": 2, "scales": 12, "qh": 32, "qs": 128},
        halves={"d": 0.00017, "dmin": 0.0025},
        affine=Affine(5, 32),
        q=lambda block: block.bits(block["qs"], 4, 32) | (block.bits(block["qh"], 1, 32) << 4),
        scales=_scales,
        biases=_biases,
    ),
    GgufBlocks(
        name="q6_k",
        about="Groups of 16 columns with signed bytes as scales; the upper two bits of a number are in `qh`.",
        formula="w = d * s * (q - 32), s the integer of the group of 16",
        source="ggml-common.h: block_q6_K; llama.cpp pull request 1684",
        fields={"ql": 128, "qh": 64, "scales": 16, "d": 2},
        halves={"d": 0.00005},
        affine=Affine(6, 16),
        zero=32,
        q=lambda block: block.bits(block["ql"], 4, 64) | (block.bits(block["qh"], 2, 32) << 4),
        scales=lambda block: block.number(block.xp.astype(block["scales"], block.xp.int8)) * block.half("d"),
    ),
)
