"""GGUF's formats of numbers that are -1, 0 or 1, times a float16 scale of the block."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.blocks import Block, GgufBlocks

TRITS = ((np.arange(256)[:, None] * 3 ** np.arange(5) % 256) * 3 // 256).astype(np.uint8)
"""Five digits of base 3 for each byte `[256, 5]`: of the fraction `byte / 256`, so that multiplying brings them out."""


def _digits(block: Block, octets: Any, count: int) -> Any:
    """`[..., n]` to `[..., count * n]`: the first digits of all bytes, then the second ones."""
    digits = block.xp.stack([block.lookup(TRITS[:, i], octets) for i in range(count)], axis=-2)
    return block.xp.reshape(digits, (*octets.shape[:-1], count * octets.shape[-1]))


def _trits(block: Block) -> Any:
    """Of TQ1_0, in three runs."""
    runs = ((block["qs"][..., :32], 5), (block["qs"][..., 32:], 5), (block["qh"], 4))
    return block.xp.concat([_digits(block, octets, count) for octets, count in runs], axis=-1)


TERNARY = (
    GgufBlocks(
        name="tq1_0",
        about="Five numbers a byte, as digits of base 3; four in the bytes of `qh`.",
        formula="w = d * (q - 1), q in 0, 1, 2",
        source="Ma et al. 2024, arXiv:2402.17764; ggml-common.h: block_tq1_0, llama.cpp pull request 8151",
        fields={"qs": 48, "qh": 4, "d": 2},
        halves={"d": 0.05},
        affine=Affine(2, 256),
        zero=1,
        q=_trits,
    ),
    GgufBlocks(
        name="tq2_0",
        about="Two bits a number.",
        formula="w = d * (q - 1), q in 0, 1, 2",
        source="Ma et al. 2024, arXiv:2402.17764; ggml-common.h: block_tq2_0, llama.cpp pull request 8151",
        fields={"qs": 64, "d": 2},
        halves={"d": 0.05},
        affine=Affine(2, 256),
        zero=1,
        q=lambda block: block.bits(block["qs"], 2, 32),
    ),
)
