"""zero_point: integers of 2 to 8 bits around an integer of their group, as GPTQ, AWQ and compressed-tensors have
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinyllm.catalogue.schemes.affine import BITS, Affine, Grouped, check_field, permutation_part, unpermute
from tinyllm.catalogue.schemes.bits import WORD, per_column, unpack
from tinyllm.catalogue.schemes.gguf.repack import narrowed
from tinyllm.spec.attribute_checks import choice, integer
from tinyllm.spec.scheme import SCALES, Part, QuantWeight, Scheme


@dataclass(frozen=True)
class ZeroPoint(Grouped):
    """`w[n, k] = scales[n, g] * (q[n, k] - zeros[n, g])`, `g = k // group_size`; in a symmetric weight every zero is
    `2^(bits - 1)`.

    arrays: `q` uint32 `[..., N, K * bits / 32]` and the optional `permutation` int32 `[K]` as in `Affine`; `scales`
    `[..., N, K / group_size]`; `zeros` uint8 of the same shape, which a symmetric weight does not have.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = False
    name: ClassVar[str] = "zero_point"
    formula: ClassVar[str] = "w = scale * (q - zero), scale and zero those of the group"
    source: ClassVar[str] = "Frantar et al. 2022, arXiv:2210.17323 (GPTQ); Lin et al. 2023, arXiv:2306.00978 (AWQ)"
    affine_rounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_field("zero_point", "bits", self.bits, choice(*BITS)(self.bits))
        check_field("zero_point", "group_size", self.group_size, integer(1)(self.group_size))
        expected = None if isinstance(self.symmetric, bool) else "true or false"
        check_field("zero_point", "symmetric", self.symmetric, expected)

    def __str__(self) -> str:
        return f"{'symmetric' if self.symmetric else 'zero_point'}{self.bits}/{self.group_size}"

    @property
    def middle(self) -> int:
        """The zero of a symmetric weight."""
        return 1 << (self.bits - 1)

    @property
    def bits_per_weight(self) -> float:
        return self.bits + (16 if self.symmetric else 24) / self.group_size

    def parts(self, shape: tuple[int, ...]) -> Mapping[str, Part]:
        *lead, columns = shape
        groups = (*lead, columns // self.group_size)
        zeros = {} if self.symmetric else {"zeros": Part(groups, ("uint8",))}
        words = Part((*lead, columns * self.bits // WORD), ("uint32",))
        return {"q": words, "scales": Part(groups, SCALES), **zeros, "permutation": permutation_part(columns)}

    def check_parameters(self, shape: tuple[int, ...]) -> str | None:
        return self.affine.check_parameters(shape)

    @property
    def affine(self) -> Affine:
        return Affine(self.bits, self.group_size)

    def as_affine(self, weight: QuantWeight) -> QuantWeight:
        """`bias = -scale * zero`, which float32 holds exactly where scales have 16 bits, and rounds else."""
        stored = weight.arrays["scales"]
        zeros = weight.arrays.get("zeros", np.uint8(self.middle))
        scales = stored.astype(np.float32)
        biases = -scales * zeros.astype(np.float32)
        scales, biases = narrowed(scales, biases)
        arrays = {name: array for name, array in weight.arrays.items() if name != "zeros"}
        arrays |= {"scales": scales, "biases": biases}
        return QuantWeight(self.affine, arrays, weight.shape, weight.dtype)

    def dequantize(self, xp: Any, weight: QuantWeight, dtype: Any) -> Any:
        q = xp.astype(unpack(xp, weight.arrays["q"], self.bits, weight.shape[-1]), dtype)
        scales = per_column(xp, xp.astype(weight.arrays["scales"], dtype), self.group_size)
        zeros = self.middle
        if not self.symmetric:
            zeros = per_column(xp, xp.astype(weight.arrays["zeros"], dtype), self.group_size)
        return unpermute(xp, weight, (q - zeros) * scales)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> QuantWeight:
        """Scales and integers as those of `Affine`, zeros near the middle."""
        drawn = self.affine.draw(rng, shape).arrays
        arrays = {"q": drawn["q"], "scales": drawn["scales"]}
        if not self.symmetric:
            low, high = max(self.middle - 2, 0), self.middle + 2
            arrays["zeros"] = rng.integers(low, high, drawn["scales"].shape, dtype=np.uint8)
        return QuantWeight(self, arrays, shape)

    def magnitude(self, weight: QuantWeight) -> np.ndarray:
        """That of `as_affine`, because kernels may run the weight by it."""
        return self.affine.magnitude(self.as_affine(weight))

    def variants(self) -> tuple[Scheme, ...]:
        return (ZeroPoint(4, 32), ZeroPoint(3, 64), ZeroPoint(8, 16), ZeroPoint(4, 32, True), ZeroPoint(2, 64, True))
