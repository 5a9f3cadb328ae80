"""What the block formats of GGUF files have in common: a block of bytes has fields, and holds integers and scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.gguf.repack import narrowed, packed
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.spec.scheme import Part, QuantWeight, Scheme

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""All float16 numbers, in the order of their bits."""

GROUPS_OF_32 = Int8(32)

Fields = dict[str, np.ndarray]


@dataclass(frozen=True)
class Block:
    """The blocks of a weight in an array library, and ways to read them.

    fields: uint8 arrays `[..., K / block, bytes]` by the names of ggml's block struct. dtype: of scales and biases.
    """

    xp: Any
    fields: Mapping[str, Any]
    dtype: Any

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def number(self, integers: Any) -> Any:
        """Integers in the dtype of scales."""
        return self.xp.astype(integers, self.dtype)

    def half(self, name: str) -> Any:
        """The float16 number of a field: `[..., 1]` in the dtype of scales."""
        return self.number(self.lookup(HALVES, self.integers(self[name], 2)))

    def lookup(self, table: np.ndarray, index: Any) -> Any:
        """Rows of a table of constants `[entries, ...]`: integers `[...]` to `[..., ...]`."""
        flat = self.xp.reshape(self.xp.astype(index, self.xp.int64), (prod(index.shape),))
        rows = self.xp.take(self.xp.asarray(table), flat, axis=0)
        return self.xp.reshape(rows, (*index.shape, *table.shape[1:]))

    def integers(self, octets: Any, size: int) -> Any:
        """Little-endian integers of so many bytes: uint8 `[..., n * size]` to int64 `[..., n]`."""
        split = self.xp.reshape(octets, (*octets.shape[:-1], octets.shape[-1] // size, size))
        split = self.xp.astype(split, self.xp.int64)
        return sum(split[..., i] * 256**i for i in range(size))

    def bits(self, octets: Any, bits: int, run: int) -> Any:
        """Integers of 1, 2 or 4 bits: uint8 `[..., n]` to `[..., n * 8 / bits]`.

        A run of so many bytes has its first numbers in the lowest bits of each byte, then those in the next higher
        bits.
        """
        count = octets.shape[-1]
        lanes = self.xp.reshape(octets, (*octets.shape[:-1], count // run, 1, run))
        shifts = self.xp.asarray(np.arange(0, 8, bits, dtype=np.uint8)[:, None])
        return self.xp.reshape((lanes >> shifts) & (2**bits - 1), (*octets.shape[:-1], count * 8 // bits))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GgufBlocks(Scheme):
    """`w = scale * (q - zero) + bias`, where groups of columns share a scale and a bias; some formats have no bias.

    arrays: `blocks` uint8 `[..., N, K / block * block_bytes]`, the blocks of a row one after another, as in the file.

    Scales and integers have so few bits that float32 holds biases and `scale * (q - zero)` exactly. Only adding a bias
    rounds, so in float32 the numbers are those of `gguf.quants.dequantize` and of `as_affine`, bit for bit.

    A format is an object, and its fields say all of it. Two objects of one name are equal.

    about: the layout in words. fields: the bytes of each field of a block, in the order of ggml's struct.
    halves: the fields that are a float16 number, with the size that it has in trained weights.
    affine: the scheme that holds the same integers, scales and biases; its groups are those of the format.
    zero: the integer that stands for the number 0, if integers are unsigned and there is no bias.
    q: reads the integers, int8 or uint8, of any shape whose order is that of the columns.
    scales, biases: read those of the groups, `[..., K / block, groups of a block]` or 1 for all groups.
    redraw: fields of a random block that are not to be any bits, `redraw(rng, fields)`.
    """

    # of other schemes the class says these three
    name: str  # type: ignore[misc]
    formula: str  # type: ignore[misc]
    source: str  # type: ignore[misc]
    about: str
    block: int = 256
    fields: Mapping[str, int]
    halves: Mapping[str, float] = field(default_factory=dict)
    affine: Affine | Int8 = GROUPS_OF_32
    zero: int = 0
    q: Callable[[Block], Any]
    scales: Callable[[Block], Any] = lambda block: block.half("d")
    biases: Callable[[Block], Any] | None = None
    redraw: Callable[[np.random.Generator, Fields], Fields] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GgufBlocks) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"GgufBlocks({self.name!r})"

    @property
    def parameters(self) -> Mapping[str, int]:
        return {}

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
        q, scales, biases = self._terms(xp, weight, dtype)
        if self.zero:
            q = xp.astype(q, xp.int8) - self.zero
        numbers = xp.astype(xp.reshape(q, (*scales.shape, self.affine.block)), dtype)
        numbers *= scales[..., None]  # in place: weights are large
        if biases is not None:
            numbers += biases[..., None]
        return xp.reshape(numbers, weight.shape)

    def as_affine(self, weight: QuantWeight) -> QuantWeight:
        """Scales and biases are float16 where that holds them all, else float32."""
        q, scales, biases = self._terms(np, weight, np.float32)
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
        lead.append(columns // self.block)
        fields = {n: rng.integers(0, 256, (*lead, size), dtype=np.uint8) for n, size in self.fields.items()}
        for name, size in self.halves.items():
            signs = rng.choice([-1, 1], (*lead, 1)) if len(self.halves) == 1 else 1
            fields[name] = (signs * rng.uniform(0.5, 1.5, (*lead, 1)) * size).astype("<f2").view(np.uint8)
        if self.redraw is not None:
            fields |= self.redraw(rng, fields)
        blocks = np.concatenate([fields[name] for name in self.fields], axis=-1)
        return QuantWeight(self, {"blocks": blocks.reshape(self.parts(shape)["blocks"].shape)}, shape)

    def _terms(self, xp: Any, weight: QuantWeight, dtype: Any) -> tuple[Any, Any, Any | None]:
        """Integers, scales and biases as `q`, `scales` and `biases` read them."""
        *lead, columns = weight.shape
        blocks = xp.reshape(weight.arrays["blocks"], (*lead, columns // self.block, self.block_bytes))
        ends = zip(self.fields, accumulate(self.fields.values()), strict=True)
        block = Block(xp, {name: blocks[..., end - self.fields[name] : end] for name, end in ends}, dtype)
        return self.q(block), self.scales(block), None if self.biases is None else self.biases(block)
