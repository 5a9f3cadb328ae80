"""GGUF's formats whose nibbles are positions in a list of 16 numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.gguf.blocks import Block, Fields, GgufBlocks
from tinyllm.catalogue.schemes.int8 import Int8

NON_LINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""Numbers of IQ4_NL and IQ4_XS."""

E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""Twice the float numbers of 2 exponent bits and 1 mantissa bit."""

E8M0 = np.exp2(np.arange(256) - 128.0).astype(np.float32)
"""Half the numbers of 8 exponent bits and nothing else."""


def _unsigned_e4m3() -> np.ndarray:
    """Half the number of each byte as a scale of NVFP4: E4M3 without its sign, 0 for the byte of its NaN."""
    octets = np.arange(256)
    exponents, mantissas = octets >> 3 & 15, (octets & 7) / 8
    numbers = np.where(exponents, np.exp2(exponents - 7.0) * (1 + mantissas), np.exp2(-6.0) * mantissas)
    return np.where(octets == 127, 0, numbers / 2).astype(np.float32)


UNSIGNED_E4M3 = _unsigned_e4m3()


def _non_linear(block: Block) -> Any:
    return block.lookup(NON_LINEAR, block.bits(block["qs"], 4, 16))


def _scales_around_32(block: Block) -> Any:
    """Of IQ4_XS: lower nibbles and upper two bits."""
    scales = block.bits(block["scales_l"], 4, 1) | (block.bits(block["scales_h"], 2, 1) << 4)
    return (block.number(scales) - 32) * block.half("d")


def _usual_exponents(rng: np.random.Generator, fields: Fields) -> Fields:
    """Exponents of MXFP4 from -7 to -4."""
    return {"e": rng.integers(120, 124, fields["e"].shape, dtype=np.uint8)}


def _usual_scales(rng: np.random.Generator, fields: Fields) -> Fields:
    """Scales of NVFP4 from 0.016 to 0.03."""
    return {"d": rng.integers(0x08, 0x10, fields["d"].shape, dtype=np.uint8)}


CODEBOOKS = (
    GgufBlocks(
        name="iq4_nl",
        about="Blocks of 32 columns with a float16 scale.",
        formula="w = d * table[q], table the 16 numbers from -127 to 113 of ggml's kvalues_iq4nl",
        source="ggml-common.h: block_iq4_nl; llama.cpp pull request 5590",
        block=32,
        fields={"d": 2, "qs": 16},
        halves={"d": 0.00125},
        q=_non_linear,
    ),
    GgufBlocks(
        name="iq4_xs",
        about="Blocks of 256 columns, groups of 32 with scales of 6 bits around 32.",
        formula="w = d * (s - 32) * table[q], s the integer of the group of 32, table as for iq4_nl",
        source="ggml-common.h: block_iq4_xs; llama.cpp pull request 5747",
        fields={"d": 2, "scales_h": 2, "scales_l": 4, "qs": 128},
        halves={"d": 0.00005},
        q=_non_linear,
        scales=_scales_around_32,
    ),
    GgufBlocks(
        name="mxfp4",
        about="Blocks of 32 floats of 4 bits, with a power of two as their scale.",
        formula="w = 2^(e - 127) * q, q of 1 sign, 2 exponent and 1 mantissa bit",
        source="OCP Microscaling Formats (MX) Specification 1.0, arXiv:2310.10537; ggml-common.h: block_mxfp4",
        block=32,
        fields={"e": 1, "qs": 16},
        q=lambda block: block.lookup(E2M1, block.bits(block["qs"], 4, 16)),
        scales=lambda block: block.number(block.lookup(E8M0, block["e"])),
        redraw=_usual_exponents,
    ),
    GgufBlocks(
        name="nvfp4",
        about="Blocks of 64 floats of 4 bits, groups of 16 with a scale that is a float of 8 bits.",
        formula="w = e4m3(d) * q, d the byte of the group of 16, q of 1 sign, 2 exponent and 1 mantissa bit",
        source="NVIDIA 2025, arXiv:2509.25149; ggml-common.h: block_nvfp4",
        block=64,
        fields={"d": 4, "qs": 32},
        affine=Int8(16),
        q=lambda block: block.lookup(E2M1, block.bits(block["qs"], 4, 8)),
        scales=lambda block: block.number(block.lookup(UNSIGNED_E4M3, block["d"])),
        redraw=_usual_scales,
    ),
)
