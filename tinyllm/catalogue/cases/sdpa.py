"""Further cases of `sdpa`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.sdpa import qkv
from tinyllm.catalogue.cases import many_keys
from tinyllm.catalogue.cases.attention import (
    FLAGS,
    MAGNITUDES,
    MASKS,
    SIZES,
    WHOLE,
    digits,
    flag_words,
    mask_of,
    scaled,
    settings_of,
    slopes,
)
from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.catalogue.cases.rows import MANY, near_top
from tinyllm.spec.cases import Case, additive_mask, booleans, constant, kept, normal

_SHAPES: dict[str, tuple[Any, ...]] = {
    "B2,H2,L3,S5": ((2, 2), (2, 2), (2, 2), 3, 5),
    "H3,L5,S3": ((3,), (3,), (3,), 5, 3),
    "L1,S6": ((), (), (), 1, 6),
    "kv broadcast,L4,S4": ((2, 3), (1, 3), (3,), 4, 4),
    "q broadcast,L2,S7": ((1, 2), (2, 2), (2, 1), 2, 7),
}
"""Leading axes of q, k and v, then L and S."""


def _crossed() -> Iterator[Case]:
    options: dict[str, list[Any]] = {
        "shape": list(_SHAPES),
        "mask": MASKS,
        "sinks": [False, True],
        "value_dim": [8, 3],
        **FLAGS,
    }
    for row in pairwise(options):
        q, k, v, length, keys = _SHAPES[row["shape"]]
        lead = np.broadcast_shapes(q, k, v)
        inputs = {"q": normal(*q, length, 8), "k": normal(*k, keys, 8), "v": normal(*v, keys, row["value_dim"])}
        inputs |= mask_of(row["mask"], lead, length, keys)
        if row["sinks"]:
            inputs["sinks"] = normal(*lead[-1:]) if lead else constant(-0.5)
        name = f"{row['shape']},D8,Dv{row['value_dim']}" + (row["mask"] and f",{row['mask']}")
        yield Case(name + flag_words({n: row[n] for n in ("sinks", *FLAGS)}), inputs, settings_of(row), "full", 4)


def sdpa() -> tuple[Case, ...]:
    """Sizes beside those of blocks, settings crossed, magnitudes, rows that attend to nothing, heads of real models."""
    patterns: Iterator[dict[str, Any]] = cycle(({}, {"causal": True}, {"causal": True, "window": 17}, {"window": 9}))
    cases = [
        Case(f"L{length},S{keys},D{dim}{flag_words(settings)}", qkv((1,), length, keys, dim), settings, "full")
        for (length, keys, dim), settings in zip((*SIZES, *WHOLE), patterns, strict=False)
    ]
    long: tuple[tuple[int, int, dict[str, Any], int], ...] = (
        (520, 530, {"window": 40}, 7),
        (330, 40, {}, 5),
        (300, 150, {"softcap": 2.0}, 4),
    )
    cases += [
        Case(
            f"L{length},S{keys},D8,causal{flag_words(settings)},blocks",
            qkv((), length, keys, 8),
            settings | {"causal": True},
            "full",
            decision,
        )
        for length, keys, settings, decision in long
    ]
    small = qkv((2,), 5, 9, 16)
    cases += [
        Case(f"H2,L5,S9,D16,{word}", scaled(small, size), {"causal": True}, "full") for word, size in MAGNITUDES.items()
    ]
    cases += [
        Case("H2,L5,S9,D16,values large", small | {"v": normal(2, 9, 16, scale=1e4)}, {}, "full"),
        Case("L3,S140,D16,values near 60000", qkv((), 3, 140, 16) | {"v": near_top(140, 16)}, {}, "full"),
        Case("L3,S9,D8,scores of 100 softcaps", qkv((), 3, 9, 8) | {"q": normal(3, 8, scale=100.0)}, {"softcap": 1.0}),
        Case("L65537,S2,D2", qkv((), MANY, 2, 2), {}, "full"),
        Case("L2,S65537,D2", qkv((), 2, MANY, 2), {"causal": True}, "full"),
        Case("B65537,L1,S1,D2", qkv((MANY,), 1, 1, 2), {}, "full"),
        Case("H2,L5,S9,D16,values subnormal", small | {"v": normal(2, 9, 16, scale=1e-7)}, {}, "full"),
        Case("H2,L5,S9,D16,scores alike", small | {"k": constant(np.ones((2, 9, 16)))}, {}, "full"),
        Case("L4,S6,D8,digits of float64", {n: digits(4 if n == "q" else 6, 8) for n in "qkv"}, {}, "full", 19),
        Case("H2,L5,S9,D16,nothing seen", small | {"mask": constant(np.zeros((5, 9), bool))}, {}, "full", 5),
        Case(
            "H2,L5,S9,D16,all -inf", small | {"mask": constant(np.full((5, 9), -np.inf))}, {"causal": True}, "full", 5
        ),
        Case(
            "H2,L5,S9,D16,nothing seen,sinks",
            small | {"mask": constant(np.zeros((1, 5, 1), bool)), "sinks": normal(2)},
            {},
            "full",
            5,
        ),
        Case(
            "H2,L5,S9,D16,mask in float32",
            small | {"mask": kept(additive_mask(5, 9), "float32")},
            {"causal": True},
            "full",
            3,
        ),
        Case("H2,L5,S9,D16,mask of -10000", small | {"mask": constant(_low(5, 9, -1e4))}, {}, "full", 5),
        Case("H2,L5,S9,D16,all at -1000", small | {"mask": constant(np.full((5, 9), -1e3))}, {}, "full", 5),
        Case(
            "H2,L33,S65,D16,alibi",
            qkv((2,), 33, 65, 16) | {"mask": slopes(2, length=33, keys=65)},
            {"causal": True},
            "full",
            4,
        ),
        Case(
            "H3,L2,S4,D8,sinks apart",
            qkv((3,), 2, 4, 8) | {"sinks": constant([-np.inf, -60.0, 60.0])},
            {"causal": True},
            "full",
            11,
        ),
        Case("H2,L3,S0,D8,sinks", qkv((2,), 3, 0, 8) | {"sinks": normal(2)}, {}, "full", 20),
        Case("H2,L3,S0,D8,mask,causal", qkv((2,), 3, 0, 8) | {"mask": booleans(3, 0)}, {"causal": True}, "full", 20),
        Case("H2,L0,S3,D8,mask,causal", qkv((2,), 0, 3, 8) | {"mask": booleans(0, 3)}, {"causal": True}, "full", 20),
        Case("H2,L3,S4,D0,scale1", qkv((2,), 3, 4, 0, 5), {"scale": 1.0}, "full", 9),
        Case(
            "H2,L3,S4,D8,Dv0",
            {"q": normal(2, 3, 8), "k": normal(2, 4, 8), "v": normal(2, 4, 0)},
            {"causal": True},
            "full",
            20,
        ),
        Case("A2,B1,C2,H2,L2,S3,D4", qkv((2, 1, 2, 2), 2, 3, 4) | {"mask": booleans(1, 1, 2, 1, 2, 3)}, {}, "full", 2),
        *(
            Case(f"H2,L4,S4,D8,causal,scale{n:g}", qkv((2,), 4, 4, 8), {"causal": True, "scale": n}, "full", 9)
            for n in (0.0, -1.0)
        ),
        Case("H2,L3,S4,D8,window 2**62", qkv((2,), 3, 4, 8), {"window": 2**62}, "full", 7),
    ]
    for name, keys in (("SmolLM2-1.7B", 257), ("Phi-3-mini", 64), ("Phi-2", 33)):
        size = MODELS[name]
        decode = qkv((size.heads,), 1, keys, size.head_dim)
        cases.append(
            Case(f"{name},decode,H{size.heads},S{keys},D{size.head_dim}", decode, {"causal": True}, "model", 6)
        )
        prefill = qkv((size.heads,), 37, 37, size.head_dim)
        cases.append(Case(f"{name},prefill,H{size.heads},L37,D{size.head_dim}", prefill, {"causal": True}, "model"))
    return (*_crossed(), *many_keys.sdpa(), *cases)


def _low(length: int, keys: int, low: float) -> Any:
    """A causal mask `[L, S]` with a number in place of -inf, as some libraries make it. It hides keys as long as a row
    has others."""
    return np.where(np.arange(keys - length, keys)[:, None] >= np.arange(keys), 0.0, low)
