"""GGUF's formats of numbers that are -1, 0 or 1, times a float16 scale of the block."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.blocks import Block, GgufBlocks

TRITS = ((np.arange(256)[:, None] * 3 ** np.arange(5) % 256) * 3 // 256).astype(np.uint8)
"""Five digits of base 3 for each byte `[256, 5]`: of the fraction `byte / 256`, so that multiplying brings them out."""


def _digits(b: Block, octets: Any, count: int) -> Any:
    """`[..., n]` to `[..., count * n]`: the first digits of all bytes, then the second ones."""
    digits = b.xp.stack([b.lookup(TRITS[:, i], octets) for i in range(count)], axis=-2)
    return b.xp.reshape(digits, (*octets.shape[:-1], count * octets.shape[-1]))


def _trits(b: Block) -> Any:
    """Of TQ1_0, in three runs."""
    runs = ((b["qs"][..., :32], 5), (b["qs"][..., 32:], 5), (b["qh"], 4))
    return b.xp.concat([_digits(b, octets, count) for octets, count in runs], axis=-1)


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
        q=lambda b: b.bits(b["qs"], 2, 32),
    ),
)
