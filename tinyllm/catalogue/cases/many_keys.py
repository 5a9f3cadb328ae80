"""Attention over more keys than a kernel takes at once, crossed with masks, sinks, windows and scores of every size.

Kernels go over keys in blocks of 16 to 128. What they get wrong beyond the first block shows only where there are
several, where the last one is not full, and where the feature is there as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.paged_attention_cases import batch
from tinyllm.catalogue.cases.attention import flag_words, mask_of
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.spec.cases import Case, Draw, booleans, constant, kept, normal

_SCORES: dict[str, tuple[float, float]] = {
    "": (0.0, 1.0),
    "scores spread": (0.0, 30.0),
    "scores at -1000": (-1e3, 1.0),
    "scores at 1000": (1e3, 1.0),
    "scores at -30000": (-3e4, 1.0),
}
"""Where the scores lie, and how far they are spread: a kernel that begins with a maximum of -1000, or of -1e4, has no
weights left below it; float16 ends at 65,504, and tells numbers near 1000 apart by 0.5."""

_OPTIONS: dict[str, list[Any]] = {
    "scores": list(_SCORES),
    "sinks": ["", "sinks", "sinks float16", "sinks bfloat16"],
    "softcap": [None, 50.0],
    "window": [None, 129, 100, 33],
}
"""A window of 100 or 33 begins inside of a block, one of 129 leaves out whole ones."""

_MASKS = ["", "float mask", "mask", "full float mask", "float row", "column mask"]
"""Kinds of `mask_of`; the last one is tried with `sdpa` alone."""


def scores_of(word: str, q: Draw, k: Draw) -> dict[str, Draw]:
    """q and k with scores as an entry of `_SCORES` says: the first number of each query and key makes the level."""
    level, spread = _SCORES[word]

    def with_first(draw: Draw, first: float, factor: float = 1.0) -> Draw:
        def make(rng: Any) -> Any:
            numbers = draw.make(rng) * factor
            if level:
                numbers[..., 0] = np.where(np.isnan(numbers[..., 0]), np.nan, first)
            return numbers

        return Draw(draw.shape, make)

    return {"q": with_first(q, 256.0, spread), "k": with_first(k, level * q.shape[-1] ** 0.5 / 256)}


def sinks_of(row: Mapping[str, Any], heads: int) -> dict[str, Draw]:
    """The input `sinks` of a row: near the scores, far above and far below them in turn."""
    word = row["sinks"]
    if not word:
        return {}
    level, cap = _SCORES[row["scores"]][0], row["softcap"] or np.inf
    draw = constant(np.clip(level, -cap, cap) + np.resize([0.75, -300.0, 300.0], heads))
    return {"sinks": kept(draw, word.split()[1]) if " " in word else draw}


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("causal", "window", "softcap") if row.get(name)}


def _words(row: Mapping[str, Any], *names: str) -> str:
    words = "".join(f",{row[name]}" for name in (*names, "scores", "sinks") if row[name])
    return words + flag_words({name: row.get(name) for name in ("softcap", "causal", "window")})


_SHAPES = {
    "L1,S257,D40": (1, 257, 40),
    "L17,S200,D72": (17, 200, 72),
    "L65,S131,D8": (65, 131, 8),
    "L5,S515,D88": (5, 515, 88),
}


def sdpa() -> Iterator[Case]:
    """Masks, sinks, windows, softcap and scores, past 128 keys."""
    for row in pairwise({"shape": list(_SHAPES), "mask": _MASKS, "causal": [False, True], **_OPTIONS}):
        length, keys, dim = _SHAPES[row["shape"]]
        inputs = scores_of(row["scores"], normal(2, length, dim), normal(2, keys, dim)) | {"v": normal(2, keys, dim)}
        inputs |= mask_of(row["mask"], (2,), length, keys) | sinks_of(row, 2)
        yield Case(f"H2,{row['shape']}{_words(row, 'mask')}", inputs, _settings(row), "full", 4)


_GROUPS = {
    "B2,Hq12,Hkv1,L1,S257,D40": (2, 12, 1, 1, 257, 40),
    "B1,Hq24,Hkv2,L2,S130,D88": (1, 24, 2, 2, 130, 88),
    "B2,Hq2,Hkv2,L65,S131,D8": (2, 2, 2, 65, 131, 8),
    "B2,Hq3,Hkv1,L3,S515,D72": (2, 3, 1, 3, 515, 72),
}


def gqa() -> Iterator[Case]:
    """Likewise for groups of heads, with key masks and lengths."""
    options: dict[str, list[Any]] = {
        "shape": list(_GROUPS),
        "mask": _MASKS[:5],
        "key_mask": ["", "key mask", "key mask of one"],
        "lengths": ["", "lengths"],
        "causal": [True, False],
    }
    for row in pairwise(options | _OPTIONS):
        sequences, heads, kv_heads, length, keys, dim = _GROUPS[row["shape"]]
        q, k = normal(sequences, heads, length, dim), normal(sequences, kv_heads, keys, dim)
        inputs = scores_of(row["scores"], q, k) | {"v": normal(sequences, kv_heads, keys, dim)}
        inputs |= mask_of(row["mask"], (sequences, heads), length, keys) | sinks_of(row, heads)
        if row["key_mask"]:
            inputs["key_mask"] = booleans(1 if row["key_mask"] == "key mask of one" else sequences, keys)
        if row["lengths"]:
            inputs["kv_lengths"] = constant(np.resize((keys - 1, 129, 64), sequences), "int32")
        yield Case(f"{row['shape']}{_words(row, 'mask', 'key_mask', 'lengths')}", inputs, _settings(row), "full", 4)


_LENGTHS: dict[str, list[tuple[int, int]]] = {
    "decode": [(1, 257), (1, 128), (1, 129)],
    "chunks": [(17, 257), (2, 190)],
    "mixed": [(33, 160), (1, 300)],
}
_HEADS = {
    "Hq12,Hkv1,D40": (12, 1, 40),
    "Hq4,Hkv2,D8": (4, 2, 8),
    "Hq2,Hkv2,D120": (2, 2, 120),
}


def paged_attention() -> Iterator[Case]:
    """Likewise over several pages of each size."""
    for row in pairwise({"lengths": list(_LENGTHS), "page": [16, 64, 128], "heads": list(_HEADS), **_OPTIONS}):
        heads, kv_heads, dim = _HEADS[row["heads"]]
        inputs = batch(_LENGTHS[row["lengths"]], heads=heads, kv_heads=kv_heads, page=row["page"], dim=dim)
        scores = scores_of(row["scores"], inputs["q"], inputs["k_pages"])
        inputs |= {"q": scores["q"], "k_pages": scores["k"]} | sinks_of(row, heads)
        name = f"long {row['lengths']},{row['heads']},page{row['page']}"
        yield Case(name + _words(row), inputs, _settings(row), "full", 4)


def _chunks(page: int, dim: int) -> Case:
    """Chunks that end on a page's last token, one token before it and one after, and such as begin there."""
    ends = [(3, 2 * page - 1), (3, 2 * page), (3, 2 * page + 1), (1, 2 * page), (1, 2 * page + 1)]
    begins = [(page, 2 * page), (page + 1, 2 * page), (page - 1, 2 * page), (2, page + 2), (page + 2, 3 * page + 1)]
    inputs = batch(ends + begins, heads=2, kv_heads=1, page=page, dim=dim)
    return Case(f"page{page},D{dim},chunks around borders", inputs, {}, "full", 6)


def chunks() -> Iterator[Case]:
    """Chunks and borders of pages of several sizes."""
    for page, dim in ((8, 40), (16, 8), (32, 4)):
        yield _chunks(page, dim)
