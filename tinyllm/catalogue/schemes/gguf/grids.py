"""GGUF's formats of 1 to 3 bits: rows of 4 or 8 numbers are chosen from a grid, that is a table of such rows.

The grids are the gguf package's own; it is imported when a weight of these formats is first used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.gguf.blocks import HALVES, Block, Fields, GgufBlocks
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


def _joined(block: Block, low: Any, high: Any) -> Any:
    """Integers whose lower 8 bits are bytes, and the bits above."""
    return block.xp.astype(low, block.xp.int64) | (block.xp.astype(high, block.xp.int64) << 8)


def _pieces(block: Block, integers: Any, bits: int) -> Any:
    """The lowest four pieces of so many bits: integers `[...]` to `[..., 4]`."""
    return (integers[..., None] >> block.xp.asarray(np.arange(4) * bits)) & (2**bits - 1)


def _signed(block: Block, rows: Any, signs: Any) -> Any:
    """Rows of 4 or 8 numbers times as many signs `[..., 8]`."""
    return block.xp.reshape(rows, signs.shape) * signs


def _even_signs(block: Block, words: Any) -> Any:
    """Eight signs for each of the lowest four pieces of 7 bits: `[..., 4, 8]`."""
    return block.lookup(EVEN_SIGNS, _pieces(block, words, 7))


def _scales(block: Block, integers: Any, factor: float) -> Any:
    return block.half("d") * (block.number(integers) + 0.5) * factor


def _scales_of_nibbles(block: Block) -> Any:
    return _scales(block, block.bits(block["scales"], 4, 1), 0.25)


def _iq2_xxs(block: Block) -> Any:
    groups = block.xp.reshape(block["qs"], (*block["qs"].shape[:-1], 8, 8))
    signs = _even_signs(block, block.integers(groups[..., 4:], 4)[..., 0])
    return block.lookup(grid("IQ2_XXS"), groups[..., :4]) * signs


def _iq2_xs(block: Block) -> Any:
    q = block.integers(block["qs"], 2)
    return block.lookup(grid("IQ2_XS"), q & 511) * block.lookup(EVEN_SIGNS, q >> 9)


def _iq2_s(block: Block) -> Any:
    q = _joined(block, block["qs"], block.bits(block["qh"], 2, 1))
    return block.lookup(grid("IQ2_S"), q) * block.lookup(SIGNS, block["signs"])


def _iq3_xxs(block: Block) -> Any:
    signs = _even_signs(block, block.integers(block["signs_and_scales"], 4))
    return _signed(block, block.lookup(grid("IQ3_XXS"), block["qs"]), signs)


def _iq3_s(block: Block) -> Any:
    q = _joined(block, block["qs"], block.bits(block["qh"], 1, 1))
    return _signed(block, block.lookup(grid("IQ3_S"), q), block.lookup(SIGNS, block["signs"]))


def _iq1_s(block: Block) -> Any:
    qh = block.integers(block["qh"], 2)
    high = _pieces(block, qh, 3) | ((qh[..., None] >> 15) << 3)
    return block.lookup(shifted_grid(), _joined(block, block["qs"], block.xp.reshape(high, block["qs"].shape)))


def _iq1_m_scales(block: Block) -> Any:
    packed = block.integers(block["scales"], 2)
    d = block.number(block.lookup(HALVES, sum((packed[..., i : i + 1] >> 12) << (4 * i) for i in range(4))))
    scales = block.xp.reshape(_pieces(block, packed, 3), (*packed.shape[:-1], 16))
    return d * (block.number(scales) * 2 + 1) * 0.125


def _spread_scale(rng: np.random.Generator, fields: Fields) -> Fields:
    """Float16 scales of IQ1_M near 0.02, their nibbles spread over `scales`."""
    d = rng.uniform(0.01, 0.03, (*fields["scales"].shape[:-1], 1)).astype(np.float16).view(np.uint16)
    nibbles = d >> np.array([0, 4, 8, 12], np.uint16) << np.uint16(12)
    scales = (fields["scales"].view("<u2") & np.uint16(0x0FFF)) | nibbles
    return {"scales": scales.astype("<u2").view(np.uint8)}


GRIDS = (
    GgufBlocks(
        name="iq1_s",
        about="Groups of 32: two bytes of `qh` hold the upper 3 bits of four rows, a scale of 3 bits and the shift's "
        "sign.",
        formula="w = d * (2 * s + 1) * (grid[q] + shift), s the integer and shift 1/8 or -1/8 of the group of 32",
        source="ggml-common.h: block_iq1_s; llama.cpp pull request 5453",
        fields={"d": 2, "qs": 32, "qh": 16},
        halves={"d": 0.02},
        q=_iq1_s,
        scales=lambda block: block.half("d") * (block.number((block["qh"][..., 1::2] >> 4) & 7) * 2 + 1) * 0.125,
    ),
    GgufBlocks(
        name="iq1_m",
        about="Groups of 16: nibbles of `qh` hold the upper 3 bits of a row and the sign of its shift. Every two bytes "
        "of `scales` hold four scales of 3 bits, and a nibble of the float16 scale of the block.",
        formula="w = d * (2 * s + 1) * (grid[q] + shift), s the integer of the group of 16, shift 1/8 or -1/8 of the "
        "row",
        source="ggml-common.h: block_iq1_m; llama.cpp pull request 6302",
        fields={"qs": 32, "qh": 16, "scales": 8},
        affine=Int8(16),
        q=lambda block: block.lookup(shifted_grid(), _joined(block, block["qs"], block.bits(block["qh"], 4, 1))),
        scales=_iq1_m_scales,
        redraw=_spread_scale,
    ),
    GgufBlocks(
        name="iq2_xxs",
        about="Groups of 32: four bytes choose rows, and four hold signs (7 bits a row) and a scale (4 bits).",
        formula="w = d * (s + 1/2) / 4 * sign * grid[q], s the integer of the group of 32",
        source="ggml-common.h: block_iq2_xxs; llama.cpp pull request 4773, after QuIP#, arXiv:2402.04396",
        fields={"d": 2, "qs": 64},
        halves={"d": 0.002},
        q=_iq2_xxs,
        scales=lambda block: _scales(block, block["qs"][..., 7::8] >> 4, 0.25),
    ),
    GgufBlocks(
        name="iq2_xs",
        about="Groups of 16: two bytes hold a row (9 bits) and its signs (7 bits).",
        formula="w = d * (s + 1/2) / 4 * sign * grid[q], s the integer of the group of 16",
        source="ggml-common.h: block_iq2_xs; llama.cpp pull request 4856, after QuIP#, arXiv:2402.04396",
        fields={"d": 2, "qs": 64, "scales": 8},
        halves={"d": 0.002},
        affine=Int8(16),
        q=_iq2_xs,
        scales=_scales_of_nibbles,
    ),
    GgufBlocks(
        name="iq2_s",
        about="Groups of 16: rows of 10 bits, the upper two in `qh`, and all eight signs of a row.",
        formula="w = d * (s + 1/2) / 4 * sign * grid[q], s the integer of the group of 16",
        source="ggml-common.h: block_iq2_s; llama.cpp pull request 5721",
        fields={"d": 2, "qs": 32, "signs": 32, "qh": 8, "scales": 8},
        halves={"d": 0.002},
        affine=Int8(16),
        q=_iq2_s,
        scales=_scales_of_nibbles,
    ),
    GgufBlocks(
        name="iq3_xxs",
        about="Groups of 32: bytes choose rows of 4; signs and scales are kept as in IQ2_XXS.",
        formula="w = d * (s + 1/2) / 2 * sign * grid[q], s the integer of the group of 32",
        source="ggml-common.h: block_iq3_xxs; llama.cpp pull request 5196",
        fields={"d": 2, "qs": 64, "signs_and_scales": 32},
        halves={"d": 0.0006},
        q=_iq3_xxs,
        scales=lambda block: _scales(block, block["signs_and_scales"][..., 3::4] >> 4, 0.5),
    ),
    GgufBlocks(
        name="iq3_s",
        about="Groups of 32: rows of 9 bits, the ninth in `qh`, and all signs.",
        formula="w = d * (2 * s + 1) * sign * grid[q], s the integer of the group of 32",
        source="ggml-common.h: block_iq3_s; llama.cpp pull request 5676",
        fields={"d": 2, "qs": 64, "qh": 8, "signs": 32, "scales": 4},
        halves={"d": 0.0006},
        q=_iq3_s,
        scales=lambda block: block.half("d") * (block.number(block.bits(block["scales"], 4, 1)) * 2 + 1),
    ),
)
