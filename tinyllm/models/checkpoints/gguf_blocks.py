"""GGUF blocks turned into `QuantWeight`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.bits import pack
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.errors import UnsupportedError
from tinyllm.spec.scheme import QuantWeight

BLOCK = 32  # elements of a GGUF block of the types below; it is also the group size

# How GGUF lays out a block: a float16 scale, maybe a float16 minimum, maybe the fifth bits, then the nibbles.
_BLOCKS: dict[str, np.dtype[Any]] = {
    "Q4_0": np.dtype([("scale", "<f2"), ("q", "V16")]),
    "Q4_1": np.dtype([("scale", "<f2"), ("bias", "<f2"), ("q", "V16")]),
    "Q5_0": np.dtype([("scale", "<f2"), ("fifth", "V4"), ("q", "V16")]),
    "Q5_1": np.dtype([("scale", "<f2"), ("bias", "<f2"), ("fifth", "V4"), ("q", "V16")]),
    "Q8_0": np.dtype([("scale", "<f2"), ("q", "V32")]),
}
BLOCK_TYPES = tuple(_BLOCKS)
SCHEMES = {
    "Q4_0": ("affine", 4),
    "Q4_1": ("affine", 4),
    "Q5_0": ("affine", 5),
    "Q5_1": ("affine", 5),
    "Q8_0": ("int8", 8),
}


def from_gguf_blocks(raw: NDArray[np.uint8], kind: str, shape: tuple[int, ...]) -> QuantWeight:
    """GGUF blocks as they lie in the file to a `QuantWeight` with the very same numbers.

    `raw` is uint8 `[..., N, row bytes]`, `kind` one of `BLOCK_TYPES`, `shape` the elements `[..., N, K]`. Source:
    ggml's block structs.
    Raises `UnsupportedError` for a kind not in `BLOCK_TYPES`.
    """
    if kind not in _BLOCKS:
        raise UnsupportedError(f"from_gguf_blocks: kind: expected one of {', '.join(BLOCK_TYPES)}, got {kind}")
    blocks = np.ascontiguousarray(raw).reshape(-1).view(_BLOCKS[kind])
    lead, k = shape[:-1], shape[-1]
    groups = (*lead, k // BLOCK)
    scales = np.ascontiguousarray(blocks["scale"]).reshape(groups)
    scheme, bits = SCHEMES[kind]
    if scheme == "int8":
        q8 = np.ascontiguousarray(blocks["q"]).view(np.int8).reshape(shape)
        return QuantWeight(Int8(BLOCK), {"q": q8, "scales": scales}, shape)
    nibbles = np.ascontiguousarray(blocks["q"])
    if bits == 4:
        q = _pack_nibbles(nibbles.view(np.uint16).reshape(-1, 8)).reshape(*lead, k // 8)
    else:
        fifth = np.ascontiguousarray(blocks["fifth"]).view(np.uint8).reshape(-1, 4)
        q = pack(np, _five_bits(nibbles.view(np.uint8).reshape(-1, 16), fifth), 5).reshape(*lead, k * 5 // 32)
    if kind.endswith("_1"):
        biases = np.ascontiguousarray(blocks["bias"]).reshape(groups)
    else:
        scales, biases = _centred(scales, 1 << (bits - 1))
    return QuantWeight(Affine(bits, BLOCK), {"q": q, "scales": scales, "biases": biases}, shape)


def _pack_nibbles(pairs: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Nibbles of blocks, two bytes a number `[blocks, 8]`, to uint32 `[blocks, 4]`.

    In a byte GGUF keeps elements j (low) and j + 16 (high); the stream wants 2k (low) and 2k + 1 (high).
    """
    out = np.empty((len(pairs), 2, 8), np.uint8)
    np.bitwise_or(pairs & 0x000F, (pairs >> 4) & 0x00F0, out=out[:, 0], casting="unsafe")
    np.bitwise_or((pairs >> 4) & 0x000F, (pairs >> 8) & 0x00F0, out=out[:, 1], casting="unsafe")
    return out.view(np.uint32).reshape(-1, 4)


def _five_bits(nibbles: NDArray[np.uint8], fifth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Nibbles `[blocks, 16]` and fifth bits `[blocks, 4]` (element i's is bit i) to values `[blocks, 32]`."""
    values: NDArray[np.uint8] = np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=-1)
    values |= np.unpackbits(fifth, axis=-1, bitorder="little") << 4
    return values


def _centred(scales: NDArray[Any], zero: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scales and biases of `scale * (q - zero)`; float32 where `-zero * scale` would leave float16."""
    biases = scales.astype(np.float32) * -zero
    if np.abs(biases).max(initial=0) <= np.finfo(np.float16).max:
        return scales, biases.astype(np.float16)
    return scales.astype(np.float32), biases
