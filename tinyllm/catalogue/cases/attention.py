"""What the cases of the attention ops share."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyllm.spec.cases import Draw, additive_mask, booleans, constant, normal

FLAGS: dict[str, list[Any]] = {
    "causal": [False, True],
    "window": [None, 1, 3, 100],
    "softcap": [None, 5.0],
    "scale": [None, 0.0, -1.0, 0.3],
}
"""Values of the attributes that the attention ops share, crossed pairwise by their cases."""

SIZES = (
    (1, 15, 64),
    (15, 16, 80),
    (16, 17, 7),
    (17, 31, 96),
    (31, 33, 40),
    (33, 32, 13),
    (63, 65, 1),
    (33, 31, 192),
    (7, 65, 256),
    (127, 128, 2),
    (129, 127, 16),
    (128, 1, 8),
    (1, 1, 64),
    (1, 2049, 40),
    (2, 1025, 72),
    (1025, 3, 4),
    (257, 130, 6),
    (290, 300, 3),
    (513, 100, 5),
    (17, 65, 120),
    (9, 129, 88),
)
"""L, S and D beside the sizes of vectors, tiles and blocks. Where L > S, the first causal rows attend to nothing. Each
product has at most 64^3 terms: OpenBLAS takes all cores for more, and far longer where there are few."""

WHOLE = ((1, 64, 64), (1, 128, 128), (64, 64, 64), (16, 128, 128), (128, 64, 32))
"""L, S and D that are multiples of those sizes."""

MAGNITUDES = {"zeros": 0.0, "large": 100.0, "subnormal in f16": 1e-7, "subnormal in f32": 1e-41}
"""Factors of the drawn numbers by name."""


def flag_words(row: dict[str, Any]) -> str:
    """The part of a case's id that names its settings: `,causal,window3`; those that are None or False are left out."""
    words = (name if value is True else f"{name}{value:g}" for name, value in row.items() if not _is_default(value))
    return "".join(f",{word}" for word in words)


def _is_default(value: Any) -> bool:
    return value is None or value is False


def settings_of(row: dict[str, Any]) -> dict[str, Any]:
    """The attributes of `FLAGS` in a pairwise row, without those that have their default."""
    return {name: row[name] for name in FLAGS if not _is_default(row.get(name))}


def mask_of(kind: str, lead: tuple[int, ...], length: int, keys: int) -> dict[str, Draw]:
    """The input `mask` of a kind in `MASKS`, or no input for "". `lead`: the axes of the scores before L, S."""
    outer = tuple(1 if axis % 2 else size for axis, size in enumerate(lead))
    draws = {
        "mask": lambda: booleans(length, keys),
        "float mask": lambda: additive_mask(length, keys),
        "full mask": lambda: booleans(*lead, length, keys, share=0.3),
        "full float mask": lambda: additive_mask(*lead, length, keys),
        "outer mask": lambda: booleans(*outer, length, keys, share=0.5),
        "row mask": lambda: booleans(*(1 for _ in lead), 1, keys),
        "column mask": lambda: booleans(length, 1),
        "float row": lambda: additive_mask(1, keys),
    }
    return {"mask": draws[kind]()} if kind else {}


MASKS = ["", "mask", "float mask", "full mask", "full float mask", "outer mask", "row mask", "column mask"]
"""Kinds of masks: of shape `[L, S]`, of the full rank of the scores ("full"; "outer" with every second axis 1), one row
for all queries, one column for all keys."""


def scaled(inputs: dict[str, Draw], scale: float) -> dict[str, Draw]:
    """The inputs with q, k and v drawn anew, `scale` times as large."""
    return inputs | {name: normal(*inputs[name].shape, scale=scale) for name in ("q", "k", "v")}


def digits(*shape: int) -> Draw:
    """Numbers near 1 that are the same in float32 and differ in float64."""
    return Draw(shape, lambda rng: 1 + 1e-10 * rng.standard_normal(shape))


def slopes(*heads: int, length: int, keys: int) -> Draw:
    """The mask `[*heads, L, S]` of ALiBi: -2^-h times the distance of query and key for head h = 1, 2, ..., where the
    last query stands on the last key (Press et al. 2022, arXiv:2108.12409)."""
    distance = np.abs(np.arange(keys - length, keys)[:, None] - np.arange(keys))
    return constant(-(2.0 ** -np.arange(1, prod(heads) + 1)).reshape(*heads, 1, 1) * distance)
