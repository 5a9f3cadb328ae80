"""A quantized weight as data: its scheme, its packed numbers and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyllm.errors import invalid
from tinyllm.spec.types import Call, QuantType

if TYPE_CHECKING:
    from tinyllm.plugins.backend import Backend

SCHEMES = ("affine", "int8")
"""The core's own; further ones come by plugin."""
BITS = (2, 3, 4, 5, 6, 8)
"""Bits that an affine weight may have."""
WORD = 32
SCALES = ("float16", "float32")


@dataclass(frozen=True, eq=False)
class QuantWeight:
    """A matrix `[N, K]` (or a stack `[..., N, K]`) whose rows are quantized in groups along K.

    scheme "affine": `w[n, k] = scales[n, g] * q[n, k] + biases[n, g]`, `g = k // group_size`, computed in float32.
        arrays: `q` uint32 `[..., N, K * bits / 32]`, `scales` and `biases` `[..., N, K / group_size]`.
        Packing, bit by bit: a row is one little-endian bit stream, value `k` takes bits `k * bits` to
            `(k + 1) * bits - 1`
        of it, lowest bit first, and the stream is cut into uint32 words, lowest bits first. That is MLX's format.
    scheme "int8": `w[n, k] = scales[n, g] * q[n, k]`, symmetric. arrays: `q` int8 `[..., N, K]`, `scales`
    `[..., N, K / group_size]`.

    In both, scales and biases are float16 or float32, of one dtype, and an optional `permutation` int32 `[K]` says that
    column `k` as stored belongs to input `permutation[k]`. Further schemes come by plugin; `arrays` then holds what
    that scheme says.
    """

    scheme: str
    arrays: Mapping[str, Any]
    bits: int
    group_size: int
    shape: tuple[int, ...]

    def with_arrays(self, arrays: Mapping[str, Any]) -> QuantWeight:
        """The same weight with its arrays replaced, e.g. by a backend's native ones."""
        return QuantWeight(self.scheme, arrays, self.bits, self.group_size, self.shape)

    def rows(self, take: Callable[[Any], Any], lead: tuple[int, ...]) -> QuantWeight:
        """Rows `[*lead, K]` of a table, still packed; `take` picks them out of an array that has all of them."""
        arrays = {name: array if name == "permutation" else take(array) for name, array in self.arrays.items()}
        return QuantWeight(self.scheme, arrays, self.bits, self.group_size, (*lead, self.shape[-1]))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(int(array.nbytes) for array in self.arrays.values())


def known_scheme(call: Call) -> bool | str:
    """`supports` of kernels that take the core's schemes, and weights that are not quantized."""
    weight = call.inputs["weight"]
    known = not isinstance(weight, QuantType) or weight.scheme in SCHEMES
    return known or f"knows schemes {' and '.join(SCHEMES)}, not {call.dtype('weight')}"


def check_quant_weight(where: str, name: str, weight: QuantWeight, backend: Backend | None = None) -> None:
    """Holds a weight to what `QuantWeight` says of its scheme; one of another scheme is its plugin's business.

    backend: whose the arrays are that are not numpy's.

    Raises:
        InvalidInputError: names `where`, the weight and the part that does not fit.
    """
    if weight.scheme not in SCHEMES:
        return

    def need(fits: bool, part: str, expected: str, got: object) -> None:
        if not fits:
            raise invalid(where, f"{name}: {part}", expected, got)

    affine, shape, bits, group_size = weight.scheme == "affine", weight.shape, weight.bits, weight.group_size
    allowed = BITS if affine else (8,)
    need(
        isinstance(shape, tuple) and len(shape) > 1 and all(_count(n) for n in shape),
        "shape",
        "2 or more sizes in a tuple",
        repr(shape),
    )
    need(_count(bits) and bits in allowed, "bits", f"one of {', '.join(map(str, allowed))}", repr(bits))
    need(_count(group_size) and group_size > 0, "group_size", "an integer above 0", repr(group_size))
    *lead, columns = shape
    need(columns % group_size == 0, "shape", f"a row length that groups of {group_size} divide", columns)
    need(not affine or columns * bits % WORD == 0, "shape", f"rows whose {bits}-bit numbers fill whole words", columns)
    groups = (*lead, columns // group_size)
    expected = {"q": ("uint32", (*lead, columns * bits // WORD)) if affine else ("int8", shape), "scales": ("", groups)}
    if affine:
        expected["biases"] = "", groups
    names = set(weight.arrays) - {"permutation"}
    need(names == expected.keys(), "arrays", ", ".join(expected), ", ".join(sorted(names)) or "none")
    dtypes = {part: _dtype(array, backend) for part, array in weight.arrays.items()}
    need(dtypes["scales"] in SCALES, "scales", " or ".join(SCALES), dtypes["scales"])
    for part, (dtype, wanted) in expected.items():
        dtype = dtype or dtypes["scales"]
        need(dtypes[part] == dtype, part, dtype, dtypes[part])
        got = tuple(weight.arrays[part].shape)
        need(got == wanted, part, f"shape {list(wanted)}", list(got))
    if "permutation" in weight.arrays:
        order = weight.arrays["permutation"]
        need(dtypes["permutation"] == "int32", "permutation", "int32", dtypes["permutation"])
        need(tuple(order.shape) == (columns,), "permutation", f"shape {[columns]}", list(order.shape))
        values = order if isinstance(order, np.ndarray) or backend is None else backend.to_numpy(order)
        once = np.array_equal(np.sort(values), np.arange(columns))
        need(once, "permutation", f"each column from 0 to {columns - 1} once", "one twice or past the end")


def _count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)


def _dtype(array: Any, backend: Backend | None) -> str:
    return str(array.dtype) if isinstance(array, np.ndarray) or backend is None else backend.dtype_name(array)
