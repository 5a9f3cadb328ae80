"""Further cases of `gqa`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.gqa import qkv
from tinyllm.catalogue.cases import many_keys
from tinyllm.catalogue.cases.attention import (
    FLAGS,
    MAGNITUDES,
    MASKS,
    SIZES,
    WHOLE,
    flag_words,
    mask_of,
    scaled,
    settings_of,
    slopes,
)
from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.spec.cases import Case, Draw, additive_mask, booleans, constant, kept, normal

_SHAPES: dict[str, tuple[Any, ...]] = {
    "B2,Hq4,Hkv2,L3,S5": ((2,), (2,), 4, 2, 3, 5),
    "Hq4,Hkv1,L1,S7": ((), (), 4, 1, 1, 7),
    "A2,B2,Hq6,Hkv3,L4,S3": ((2, 2), (2, 2), 6, 3, 4, 3),
    "kv of one,B2,Hq3,Hkv3,L2,S6": ((2,), (1,), 3, 3, 2, 6),
    "kv without batch,B2,Hq6,Hkv2,L2,S4": ((2,), (), 6, 2, 2, 4),
    "q of one,B3,Hq4,Hkv2,L1,S8": ((1,), (3,), 4, 2, 1, 8),
}
"""Leading axes of q, then of k and v, Hq, Hkv, L, S."""


def _lengths(lead: tuple[int, ...], keys: int) -> Draw:
    """kv_lengths `[*lead]`: all keys, half of them, none, one, all but one, and so on."""
    lengths = np.resize((keys, keys // 2, 0, 1, keys - 1), lead)
    return constant(lengths, "int32")


def _crossed() -> Iterator[Case]:
    options: dict[str, list[Any]] = {
        "shape": list(_SHAPES),
        "mask": MASKS,
        "key_mask": ["", "key mask", "key mask of one"],
        "lengths": [False, True],
        "sinks": [False, True],
        "value_dim": [8, 3],
        **FLAGS,
    }
    for row in pairwise(options):
        q_lead, k_lead, heads, kv_heads, length, keys = _SHAPES[row["shape"]]
        lead = np.broadcast_shapes(q_lead, k_lead)
        inputs = qkv(k_lead, heads, kv_heads, length, keys, 8, row["value_dim"]) | {
            "q": normal(*q_lead, heads, length, 8)
        }
        inputs |= mask_of(row["mask"], (*lead, heads), length, keys)
        if row["key_mask"]:
            inputs["key_mask"] = booleans(*(lead if row["key_mask"] == "key mask" else (1 for _ in lead)), keys)
        if row["lengths"]:
            inputs["kv_lengths"] = _lengths(lead, keys)
        if row["sinks"]:
            inputs["sinks"] = normal(heads)
        words = "".join(f",{row[name]}" for name in ("mask", "key_mask") if row[name])
        flags = flag_words({name: row[name] for name in ("lengths", "sinks", *FLAGS)})
        yield Case(f"{row['shape']},Dv{row['value_dim']}{words}{flags}", inputs, settings_of(row), "full", 4)


def gqa() -> tuple[Case, ...]:
    """Sizes beside those of blocks, groups of 1 to 32 heads, settings crossed, magnitudes, kv_lengths, real models."""
    patterns: Iterator[dict[str, Any]] = cycle(({"causal": True}, {}, {"causal": True, "window": 33}, {"window": 5}))
    cases = [
        Case(
            f"Hq2,Hkv1,L{length},S{keys},D{dim}{flag_words(settings)}",
            qkv((), 2, 1, length, keys, dim),
            settings,
            "full",
        )
        for (length, keys, dim), settings in zip((*SIZES[::2], *WHOLE), patterns, strict=False)
    ]
    cases += [
        Case(
            f"Hq{heads},Hkv{kv},G{heads // kv},L2,S7,D16", qkv((1,), heads, kv, 2, 7, 16), {"causal": True}, "full", 10
        )
        for heads, kv in ((32, 32), (12, 4), (32, 8), (15, 3), (48, 8), (14, 2), (32, 4), (24, 2), (32, 2), (32, 1))
    ]
    small = qkv((2,), 4, 2, 5, 9, 16)
    cases += [
        Case(f"B2,Hq4,Hkv2,L5,S9,{word}", scaled(small, size), {"causal": True}, "full")
        for word, size in MAGNITUDES.items()
    ]
    cases += [
        _with_lengths((17, 0, 1, 33), 8, 2, 1, 33, 64, {"causal": True}),
        _with_lengths((129, 127, 64), 4, 4, 3, 129, 16, {"causal": True, "window": 65}),
        _with_lengths((16, 16), 4, 1, 2, 33, 16, {"causal": True}),
        _with_lengths((275, 260), 2, 1, 270, 280, 3, {"causal": True}),
        _with_lengths(tuple(range(65)), 2, 1, 1, 65, 4, {"causal": True}),
        _with_lengths((2, 3), 2, 2, 4, 7, 8, {"causal": True, "window": 1}),
        _with_lengths((3, 2), 4, 2, 4, 300, 8, {"causal": True}, "uint8"),
        _with_lengths((100, 127), 4, 2, 2, 200, 8, {"causal": True, "window": 9}, "int8"),
        _with_lengths((9, 2), 4, 2, 4, 9, 8, {}, "uint16"),
        _with_lengths((9, 0), 4, 2, 4, 9, 8, {"window": 3}, "uint64"),
        Case("Hq12,Hkv1,L1,S2049,D16", qkv((), 12, 1, 1, 2049, 16), {"causal": True}, "full", 10),
        Case(
            "B2,Hq4,Hkv2,lengths,left padding",
            small | {"kv_lengths": constant([7, 9], "int64"), "key_mask": _padded(9, 3, 0)},
            {"causal": True},
            "full",
            6,
        ),
        Case(
            "B2,Hq4,Hkv2,lengths,all masked",
            small | {"kv_lengths": constant([3, 9], "int32"), "key_mask": _padded(9, 3, 9)},
            {},
            "full",
            5,
        ),
        Case(
            "B2,Hq4,Hkv2,nothing seen,sinks",
            small | {"key_mask": constant(np.zeros((1, 9), bool)), "sinks": normal(4)},
            {},
            "full",
            5,
        ),
        Case(
            "B2,Hq4,Hkv2,mask in float32",
            small | {"mask": kept(additive_mask(5, 9), "float32")},
            {"causal": True},
            "full",
            3,
        ),
        Case(
            "Hq4,Hkv2,L9,S17,alibi",
            qkv((), 4, 2, 9, 17, 16) | {"mask": slopes(4, length=9, keys=17)},
            {"causal": True},
            "full",
            4,
        ),
        Case("Hq4,Hkv2,mask of one head", qkv((), 4, 2, 3, 5, 8) | {"mask": booleans(1, 3, 5)}, {}, "full", 2),
        Case(
            "B1,Hq4,Hkv2,sinks apart",
            qkv((1,), 4, 2, 2, 3, 8) | {"sinks": constant([-np.inf, -60.0, 0.0, 60.0])},
            {},
            "full",
            11,
        ),
        Case(
            "B2,Hq4,Hkv2,S0,lengths,mask",
            qkv((2,), 4, 2, 3, 0, 8) | {"kv_lengths": constant([0, 0], "int32"), "mask": booleans(3, 0)},
            {"causal": True},
            "full",
            20,
        ),
        Case(
            "B0,lengths,key mask",
            qkv((0,), 4, 2, 3, 5, 8) | {"kv_lengths": constant([], "int32"), "key_mask": booleans(0, 5)},
            {"causal": True},
            "full",
            20,
        ),
        Case("B1,Hq4,Hkv2,L4,S4,causal,scale0", qkv((1,), 4, 2, 4, 4, 8), {"causal": True, "scale": 0.0}, "full", 9),
        Case("B1,Hq4,Hkv2,L4,S4,causal,scale-1", qkv((1,), 4, 2, 4, 4, 8), {"causal": True, "scale": -1.0}, "full", 9),
        Case("Hq0,Hkv2", qkv((2,), 0, 2, 3, 5, 8), {}, "full", 20),
    ]
    return (*_crossed(), *many_keys.gqa(), *cases, *_models())


def _with_lengths(
    lengths: tuple[int, ...],
    heads: int,
    kv_heads: int,
    length: int,
    keys: int,
    dim: int,
    settings: dict[str, Any],
    dtype: str = "int32",
) -> Case:
    """A case over a cache with spare room. The numbers there are finite, so that a kernel that reads them gives wrong
    numbers, not NaN."""
    inputs = qkv((len(lengths),), heads, kv_heads, length, keys, dim) | {"kv_lengths": constant(lengths, dtype)}
    words = " ".join(map(str, lengths)) if len(lengths) < 9 else f"of {len(lengths)}"
    name = f"Hq{heads},Hkv{kv_heads},L{length},S{keys},D{dim},lengths {words} {dtype}"
    return Case(name + flag_words(settings), inputs, settings, "full", 6)


def _padded(keys: int, *counts: int) -> Draw:
    """A key mask `[B, S]` that hides the first `counts[b]` keys of sequence b."""
    return constant(np.arange(keys)[None, :] >= np.asarray(counts)[:, None])


def _models() -> Iterator[Case]:
    """A decode step of each model, over more keys where its heads are few, and a prefill of 19 tokens."""
    counts = {
        "SmolLM2-135M": 1025,
        "Qwen2.5-0.5B": 2049,
        "Qwen2.5-7B": 129,
        "Qwen3-0.6B": 129,
        "Qwen3-8B": 129,
        "Llama-3.2-1B": 257,
        "Llama-3-8B": 129,
        "TinyLlama-1.1B": 257,
        "Gemma-2B": 513,
        "Gemma-2-2B": 129,
        "gpt-oss-20b": 200,
    }
    for name, keys in counts.items():
        size = MODELS[name]
        heads, kv_heads, dim = size.heads, size.kv_heads, size.head_dim
        settings: dict[str, Any] = {"causal": True}
        if size.window and size.window < keys:
            settings["window"] = size.window
        extra = {"sinks": normal(heads)} if name.startswith("gpt-oss") else {}
        if name.startswith("Gemma-2-"):
            settings |= {"softcap": 50.0, "scale": 256**-0.5}
        for step, length, count in ((f"S{keys}", 1, keys), ("L19", 19, 19)):
            word = "decode" if length == 1 else "prefill"
            inputs = qkv((1,), heads, kv_heads, length, count, dim) | extra
            yield Case(f"{name},{word},Hq{heads},Hkv{kv_heads},{step},D{dim}", inputs, settings, "model", 6)
