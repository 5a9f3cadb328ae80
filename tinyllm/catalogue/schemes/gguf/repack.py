"""Integers and scales as `Affine` has them: of numpy arrays alone, and fast, because whole models are repacked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """What `bits.pack` gives, for numpy arrays: uint8 `[..., K]`, K a multiple of 32, to uint32 `[..., K * bits / 32]`.

    Eight values are taken as one integer of 64 bits, in which neighbours move together: bytes, then pairs, then fours.
    """
    shape = (*values.shape[:-1], values.shape[-1] * bits // 32)
    if bits == 4:  # a pair fills a byte at once
        pairs = np.ascontiguousarray(values).reshape(-1).view("<u2")
        packed_bytes: NDArray[np.uint8] = ((pairs >> 4) | pairs).astype(np.uint8)
        return packed_bytes.view(np.uint32).reshape(shape)
    eights = np.ascontiguousarray(values).reshape(-1).view("<u8")
    for width in (8, 16, 32):
        low = np.uint64((2**64 - 1) // (2**width + 1))  # a mask of the lower `width` bits of every `2 * width`
        high = (eights & ~low) >> np.uint64(width * (8 - bits) // 8)
        eights = (eights & low) | high
    packed_bytes = np.ascontiguousarray(eights.view(np.uint8).reshape(-1, 8)[:, :bits])
    return packed_bytes.reshape(-1).view(np.uint32).reshape(shape)


def narrowed(*arrays: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    """The arrays as float16 if that holds all their numbers exactly, else as they are."""
    with np.errstate(over="ignore"):
        halves = tuple(array.astype(np.float16) for array in arrays)
    return halves if all(np.array_equal(h, a) for h, a in zip(halves, arrays, strict=True)) else arrays
