"""GGUF's first formats: blocks of 32 columns with a float16 scale, and maybe a float16 minimum."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.blocks import Block, GgufBlocks

FIFTH_BITS = ((np.arange(256)[:, None] >> np.arange(8) & 1) << 4).astype(np.uint8)
"""The fifth bits, where they belong, of eight numbers by the byte that holds them `[256, 8]`."""


def _nibbles(block: Block) -> Any:
    return block.bits(block["qs"], 4, 16)


def _five_bits(block: Block) -> Any:
    nibbles = _nibbles(block)
    return nibbles | block.xp.reshape(block.lookup(FIFTH_BITS, block["qh"]), nibbles.shape)


LEGACY = (
    GgufBlocks(
        name="q4_0",
        about="Nibbles around 8.",
        formula="w = d * (q - 8)",
        source="ggml-common.h: block_q4_0",
        block=32,
        fields={"d": 2, "qs": 16},
        halves={"d": 0.02},
        affine=Affine(4, 32),
        zero=8,
        q=_nibbles,
    ),
    GgufBlocks(
        name="q4_1",
        about="Nibbles above a minimum.",
        formula="w = d * q + m",
        source="ggml-common.h: block_q4_1",
        block=32,
        fields={"d": 2, "m": 2, "qs": 16},
        halves={"d": 0.02, "m": -0.15},
        affine=Affine(4, 32),
        q=_nibbles,
        biases=lambda block: block.half("m"),
    ),
    GgufBlocks(
        name="q5_0",
        about="Five bits around 16: nibbles, and a bit of each number in `qh`.",
        formula="w = d * (q - 16)",
        source="ggml-common.h: block_q5_0",
        block=32,
        fields={"d": 2, "qh": 4, "qs": 16},
        halves={"d": 0.01},
        affine=Affine(5, 32),
        zero=16,
        q=_five_bits,
    ),
    GgufBlocks(
        name="q5_1",
        about="Five bits above a minimum, kept as in Q5_0.",
        formula="w = d * q + m",
        source="ggml-common.h: block_q5_1",
        block=32,
        fields={"d": 2, "m": 2, "qh": 4, "qs": 16},
        halves={"d": 0.01, "m": -0.15},
        affine=Affine(5, 32),
        q=_five_bits,
        biases=lambda block: block.half("m"),
    ),
    GgufBlocks(
        name="q8_0",
        about="Signed bytes: those from 128 on wrap when they are cast, as in C.",
        formula="w = d * q",
        source="ggml-common.h: block_q8_0",
        block=32,
        fields={"d": 2, "qs": 32},
        halves={"d": 0.00125},
        q=lambda block: block.xp.astype(block["qs"], block.xp.int8),
    ),
)
