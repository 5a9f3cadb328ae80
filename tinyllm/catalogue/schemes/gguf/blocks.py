"""What the block formats of GGUF files have in common: a block of bytes has fields, and holds integers and scales."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.repack import narrowed, packed
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.spec.scheme import Part, QuantWeight, Scheme

Fields = Mapping[str, Any]
"""uint8 arrays `[..., K / block, bytes]` by the names of ggml's block struct."""

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""All float16 numbers, in the order of their bits."""


@dataclass(frozen=True)
class GgufBlocks(Scheme):
    """`w = scale * (q - zero) + bias`, where groups of columns share a scale and a bias; some formats have no bias.

    arrays: `blocks` uint8 `[..., N, K / block * block_bytes]`, the blocks of a row one after another, as in the file.

    Scales and integers have so few bits that float32 holds biases and `scale * (q - zero)` exactly. Only adding a bias
    rounds, so in float32 the numbers are those of `gguf.quants.dequantize` and of `as_affine`, bit for bit.

    fields: the bytes of each field of a block, in the order of ggml's struct.
    halves: the fields that are a float16 number, with the size that it has in trained weights.
    zero: the integer that stands for the number 0, if integers are unsigned and there is no bias.
    affine: the scheme that holds the same integers, scales and biases; its groups are those of the format.
    """

    fields: ClassVar[Mapping[str, int]]
    halves: ClassVar[Mapping[str, float]] = {}
    affine: ClassVar[Affine | Int8]
    block: ClassVar[int] = 256
    zero: ClassVar[int] = 0

    @abstractmethod
    def terms(self, xp: Any, fields: Fields, dtype: Any) -> tuple[Any, Any, Any | None]:
        """Integers (int8 or uint8, of any shape whose order is that of the columns), and scales and biases
        `[..., K / block, groups of a block]` in `dtype`."""

    @property
    def block_bytes(self) -> int:
        """Bytes that a block takes."""
        return sum(self.fields.values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        *lead, columns = shape
        return {"blocks": Part((*lead, columns // self.block * self.block_bytes), ("uint8",))}

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        q, scales, biases = self.terms(xp, self._cut(xp, weight), dtype)
        if self.zero:
            q = xp.astype(q, xp.int8) - self.zero
        numbers = xp.astype(xp.reshape(q, (*scales.shape, self.affine.block)), dtype)
        numbers *= scales[..., None]  # in place: weights are large
        if biases is not None:
            numbers += biases[..., None]
        return xp.reshape(numbers, weight.shape)

    def as_affine(self, weight: QuantWeight) -> QuantWeight:
        """Scales and biases are float16 where that holds them all, else float32."""
        q, scales, biases = self.terms(np, self._cut(np, weight), np.float32)
        q = q.reshape(weight.shape)
        scales = scales.reshape(*weight.shape[:-1], weight.shape[-1] // self.affine.block)
        if isinstance(self.affine, Int8):
            (scales,) = narrowed(scales)
            return QuantWeight(self.affine, {"q": q, "scales": scales}, weight.shape, weight.dtype)
        biases = -self.zero * scales if biases is None else biases.reshape(scales.shape)
        scales, biases = narrowed(scales, biases)
        arrays = {"q": packed(q, self.affine.bits), "scales": scales, "biases": biases}
        return QuantWeight(self.affine, arrays, weight.shape, weight.dtype)

    def magnitude(self, weight: QuantWeight) -> np.ndarray:
        """That of `as_affine`, because kernels may run the weight by it."""
        return self.affine.magnitude(self.as_affine(weight))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        """Random bits, and float16 numbers near their size in `halves`; those of formats without a minimum may be
        negative."""
        *lead, columns = shape
        fields = self.draw_fields(rng, (*lead, columns // self.block))
        blocks = np.concatenate([fields[name] for name in self.fields], axis=-1)
        return QuantWeight(self, {"blocks": blocks.reshape(self.parts(shape)["blocks"].shape)}, shape)

    def draw_fields(self, rng: np.random.Generator, blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The fields of random blocks, uint8 `[*blocks, bytes]`."""
        fields = {n: rng.integers(0, 256, (*blocks, size), dtype=np.uint8) for n, size in self.fields.items()}
        for name, size in self.halves.items():
            signs = rng.choice([-1, 1], (*blocks, 1)) if len(self.halves) == 1 else 1
            fields[name] = (signs * rng.uniform(0.5, 1.5, (*blocks, 1)) * size).astype("<f2").view(np.uint8)
        return fields

    def _cut(self, xp: Any, weight: QuantWeight) -> Fields:
        *lead, columns = weight.shape
        blocks = xp.reshape(weight.arrays["blocks"], (*lead, columns // self.block, self.block_bytes))
        ends = accumulate(self.fields.values())
        return {name: blocks[..., end - self.fields[name] : end] for name, end in zip(self.fields, ends, strict=True)}


def lookup(xp: Any, table: np.ndarray, index: Any) -> Any:
    """Rows of a table of constants `[entries, ...]`: integers `[...]` to `[..., ...]`."""
    rows = xp.take(xp.asarray(table), xp.reshape(xp.astype(index, xp.int64), (prod(index.shape),)), axis=0)
    return xp.reshape(rows, (*index.shape, *table.shape[1:]))


def integers(xp: Any, octets: Any, size: int) -> Any:
    """Little-endian integers of so many bytes: uint8 `[..., n * size]` to int64 `[..., n]`."""
    split = xp.astype(xp.reshape(octets, (*octets.shape[:-1], octets.shape[-1] // size, size)), xp.int64)
    return sum(split[..., i] * 256**i for i in range(size))


def half(xp: Any, octets: Any, dtype: Any) -> Any:
    """Float16 numbers: uint8 `[..., n * 2]` to `[..., n]` of `dtype`."""
    return xp.astype(lookup(xp, HALVES, integers(xp, octets, 2)), dtype)


def unpack_bits(xp: Any, octets: Any, bits: int, run: int) -> Any:
    """Integers of 1, 2 or 4 bits: uint8 `[..., n]` to `[..., n * 8 / bits]`.

    A run of so many bytes has its first numbers in the lowest bits of each byte, then those in the next higher bits.
    """
    count = octets.shape[-1]
    lanes = xp.reshape(octets, (*octets.shape[:-1], count // run, 1, run))
    shifts = xp.asarray(np.arange(0, 8, bits, dtype=np.uint8)[:, None])
    return xp.reshape((lanes >> shifts) & (2**bits - 1), (*octets.shape[:-1], count * 8 // bits))
