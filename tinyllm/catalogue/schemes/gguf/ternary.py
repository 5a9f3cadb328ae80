"""GGUF's formats of numbers that are -1, 0 or 1, times a float16 scale of the block."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.blocks import Fields, GgufBlocks, half, lookup, unpack_bits

TRITS = ((np.arange(256)[:, None] * 3 ** np.arange(5) % 256) * 3 // 256).astype(np.uint8)
"""Five digits of base 3 for each byte `[256, 5]`: of the fraction `byte / 256`, so that multiplying brings them out."""


class TQ1_0(GgufBlocks):
    """Five numbers a byte, as digits of base 3; four in the bytes of `qh`."""

    name = "tq1_0"
    formula = "w = d * (q - 1), q in 0, 1, 2"
    source = "Ma et al. 2024, arXiv:2402.17764; ggml-common.h: block_tq1_0, llama.cpp pull request 8151"
    fields: ClassVar = {"qs": 48, "qh": 4, "d": 2}
    halves: ClassVar = {"d": 0.05}
    affine = Affine(2, 256)
    zero = 1

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        runs = ((fields["qs"][..., :32], 5), (fields["qs"][..., 32:], 5), (fields["qh"], 4))
        q = xp.concat([_digits(xp, octets, count) for octets, count in runs], axis=-1)
        return q, half(xp, fields["d"], dtype), None


class TQ2_0(GgufBlocks):
    """Two bits a number."""

    name = "tq2_0"
    formula = "w = d * (q - 1), q in 0, 1, 2"
    source = "Ma et al. 2024, arXiv:2402.17764; ggml-common.h: block_tq2_0, llama.cpp pull request 8151"
    fields: ClassVar = {"qs": 64, "d": 2}
    halves: ClassVar = {"d": 0.05}
    affine = Affine(2, 256)
    zero = 1

    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any]:
        return unpack_bits(xp, fields["qs"], 2, 32), half(xp, fields["d"], dtype), None


def _digits(xp: Any, octets: Any, count: int) -> Any:
    """`[..., n]` to `[..., count * n]`: the first digits of all bytes, then the second ones."""
    digits = xp.stack([lookup(xp, TRITS[:, i], octets) for i in range(count)], axis=-2)
    return xp.reshape(digits, (*octets.shape[:-1], count * octets.shape[-1]))
