"""Further cases of `mha`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.mha_cases import layer, with_weights, without
from tinyllm.catalogue.cases.attention import FLAGS, MAGNITUDES, digits, flag_words, settings_of
from tinyllm.catalogue.cases.model_sizes import MODELS
from tinyllm.catalogue.cases.pairwise import pairwise
from tinyllm.catalogue.schemes.affine import Affine
from tinyllm.catalogue.schemes.int8 import Int8
from tinyllm.spec.cases import Case, Draw, additive_mask, booleans, constant, integers, normal, quantized
from tinyllm.spec.rope import Rope, RopeScaling

_KEYS: dict[str, dict[str, Any]] = {
    "self": {},
    "past": {"past": 2},
    "cross": {"key": (5, 64)},
    "cross,value": {"key": (5, 64), "value": 96},
    "cross,past": {"key": (3, 32), "past": 2},
    "cached": {"past": 4},
}
"""Where keys and values come from; `cached`: from the past alone."""

_PAIRS = Rope(dims=4, traditional=True, base=500.0, position_scale=0.25)
_YARN = Rope(scaling=RopeScaling("yarn", 4.0, 64))
_TURNS: dict[str, tuple[Rope | None, str]] = {
    "": (None, ""),
    "rope": (Rope(), ""),
    "rope of pairs,dims4": (_PAIRS, ""),
    "rope,places": (Rope(), "places"),
    "rope of pairs,dims4,places of each": (_PAIRS, "places of each"),
    "yarn,places of each": (_YARN, "places of each"),
}
"""Rope, and of which form its positions are."""

_OPTIONS: dict[str, list[Any]] = {
    "keys": list(_KEYS),
    "kv_heads": [4, 2, 1],
    "value_dim": [8, 16],
    "lead": [(2,), (), (2, 1)],
    "length": [3, 1],
    "bias": [False, True],
    "norm": ["", "norms", "q norm"],
    "turn": list(_TURNS),
    "qk_norm_after_rope": [False, True],
    "mask": ["", "mask", "float mask", "full mask", "column mask"],
    "key_mask": [False, True],
    "sinks": [False, True],
    "bias_k": [False, True],
    "add_zero_attn": [False, True],
    "need_weights": [None, "heads", "mean"],
    "return_kv": [False, True],
    "quantized": ["", "affine4", "int8"],
    **FLAGS,
}


def _allowed(pair: Mapping[str, Any]) -> bool:
    """Rope needs keys of the query's own sequence, and positions where all keys are cached ones; those are normed
    already."""
    keys, turn = pair.get("keys", ""), pair.get("turn", "")
    if keys == "cached":
        return pair.get("norm") != "norms" and (not turn or "places" in turn)
    return not (keys.startswith("cross") and turn)


def _crossed() -> Iterator[Case]:
    for row in pairwise(_OPTIONS, _allowed):
        inputs = _inputs(row)
        settings = settings_of(row) | {"num_heads": 4, "num_kv_heads": row["kv_heads"]}
        settings |= {n: row[n] for n in ("qk_norm_after_rope", "add_zero_attn", "need_weights", "return_kv") if row[n]}
        if row["turn"]:
            settings["rope"] = _TURNS[row["turn"]][0]
        words = [row[n] for n in ("norm", "turn", "mask", "quantized") if row[n]]
        flags = flag_words(
            {n: row[n] for n in ("bias", "key_mask", "sinks", "bias_k", "add_zero_attn", "return_kv", *FLAGS)}
        )
        weights = f",weights {row['need_weights']}" if row["need_weights"] else ""
        after = ",after rope" if row["qk_norm_after_rope"] else ""
        lead = "".join(f"{n}x" for n in row["lead"])
        name = ",".join(
            [f"{lead}{row['length']}", row["keys"], f"Hkv{row['kv_heads']}", f"Dv{row['value_dim']}", *words]
        )
        yield Case(name + after + flags + weights, inputs, settings, "full", 12)


def _inputs(row: Mapping[str, Any]) -> dict[str, Draw]:
    """A layer of 32 numbers, 4 heads of 8, as a row of options says."""
    keys, lead, length, kv_heads = row["keys"], row["lead"], row["length"], row["kv_heads"]
    sizes = {
        "length": length,
        "kv_heads": kv_heads,
        "value_dim": row["value_dim"],
        "bias": row["bias"],
        "norm": bool(row["norm"]),
    }
    inputs = layer(*lead, model=32, dim=8, **sizes, **_KEYS[keys])
    if row["norm"] == "q norm":
        inputs = without(inputs, "k_norm")
    if keys == "cached":
        inputs = without(inputs, "k_proj", "v_proj", "k_bias", "v_bias")
    if row["quantized"]:
        draw = partial(quantized, Int8(32) if row["quantized"] == "int8" else Affine(4, 32))
        inputs = with_weights(inputs, draw, "qo" if keys == "cached" else "qkvo")
    places = _TURNS[row["turn"]][1]
    if places:
        inputs["positions"] = integers(-3, 200, *(lead if places == "places of each" else ()), length)
    if row["bias_k"]:
        inputs |= {"bias_k": normal(kv_heads * 8), "bias_v": normal(kv_heads * row["value_dim"])}
    if row["sinks"]:
        inputs["sinks"] = normal(4)
    count = _KEYS[keys].get("past", 0) + (0 if keys == "cached" else _KEYS[keys].get("key", (length,))[0])
    masks = {
        "mask": booleans(length, count),
        "float mask": additive_mask(length, count),
        "full mask": booleans(*lead, 4, length, count, share=0.4),
        "column mask": booleans(length, 1),
    }
    if row["mask"]:
        inputs["mask"] = masks[row["mask"]]
    if row["key_mask"]:
        inputs["key_mask"] = booleans(*lead, count)
    return inputs


_H2: dict[str, Any] = {"num_heads": 2}
_H4: dict[str, Any] = {"num_heads": 4}
_NEAR = [-1e3, -998.0, -1100.0, -900.0]
"""Sinks near scores of -1000, below them and above."""


def mha() -> tuple[Case, ...]:
    """Flags crossed, lengths by one, magnitudes, rows that see nothing, and layers of real models."""
    cases = [
        Case(
            f"L{length},E{model},D{dim}",
            layer(1, length=length, model=model, heads=2, dim=dim),
            {"num_heads": 2} | way,
            "full",
        )
        for length, model, dim, way in (
            (1, 31, 7, {}),
            (15, 22, 72, {"causal": True}),
            (17, 74, 40, {"window": 5}),
            (33, 6, 88, {"causal": True, "window": 9}),
            (65, 13, 120, {"causal": True}),
            (127, 8, 4, {}),
            (129, 8, 4, {"causal": True}),
            (300, 4, 2, {"causal": True}),
        )
    ]
    cases += [
        Case(
            f"Hq{heads},Hkv{kv}",
            layer(1, length=2, heads=heads, kv_heads=kv),
            {"num_heads": heads, "num_kv_heads": kv},
            "full",
            10,
        )
        for heads, kv in ((32, 32), (32, 8), (32, 1), (24, 2), (15, 3))
    ]
    small, hidden, causal = layer(2), constant(np.zeros((2, 3), bool)), _H4 | {"causal": True}
    cases += [
        Case(word, small | {"query": normal(2, 3, 12, scale=size)}, causal, "full") for word, size in MAGNITUDES.items()
    ]
    cases += [
        Case("large,norm", layer(2, norm=True) | {"query": normal(2, 3, 12, scale=100.0)}, _H4, "full"),
        Case("small,norm", layer(2, norm=True) | {"query": normal(2, 3, 12, scale=1e-4)}, _H4, "full"),
        Case("digits of float64", small | {"query": digits(2, 3, 12)}, causal, "full", 19),
        Case("nothing seen,weights mean", small | {"key_mask": hidden}, _H4 | {"need_weights": "mean"}, "full", 5),
        Case(
            "nothing seen,sinks",
            small | {"key_mask": hidden, "sinks": normal(4)},
            _H4 | {"need_weights": "heads"},
            "full",
            5,
        ),
        Case(
            "nothing seen,zero attn",
            small | {"key_mask": hidden},
            _H4 | {"add_zero_attn": True, "need_weights": "heads"},
            "full",
            5,
        ),
        Case("all at -1000", small | {"mask": constant(np.full((3, 3), -1e3))}, _H4, "full", 5),
        Case(
            "past hidden",
            layer(2, past=3) | {"key_mask": constant([[False] * 3 + [True] * 3, [True] * 6])},
            causal,
            "full",
            6,
        ),
        Case("past beyond window", layer(2, length=2, past=9), _H4 | {"causal": True, "window": 3}, "full", 7),
        Case("one over 2049", layer(1, length=1, past=2048, heads=2), _H2 | {"causal": True}, "full", 6),
        Case(
            "one over 300,mask row,softcap,window",
            layer(1, length=1, past=299, heads=2) | {"mask": additive_mask(1, 300), "sinks": constant([0.5, 300.0])},
            _H2 | {"softcap": 50.0, "window": 100},
            "full",
            4,
        ),
        Case(
            "all at -1000,sinks",
            layer(2, length=5, past=160) | {"mask": additive_mask(1, 165, level=-1e3), "sinks": constant(_NEAR)},
            _H4,
            "full",
            5,
        ),
        Case("33 sequences", layer(33, length=2), causal, "full"),
        Case("cross,S1", layer(2, key=(1, 5)), _H4, "full"),
        Case("cross,L0,S3", layer(2, length=0, key=(3, 5), bias=True), _H4 | {"need_weights": "mean"}, "full", 20),
        Case(
            "cross,S0,mask,sinks",
            layer(2, key=(0, 5)) | {"mask": booleans(3, 0), "sinks": normal(4)},
            causal,
            "full",
            20,
        ),
        Case(
            "S0,past0,return kv",
            layer(2, key=(0, 5), past=0),
            _H4 | {"return_kv": True, "add_zero_attn": True},
            "full",
            20,
        ),
        Case(
            "cached,P0", without(layer(2, past=0, bias=True), "k_proj", "v_proj", "k_bias", "v_bias"), _H4, "full", 20
        ),
        Case(
            "positions far",
            layer(1) | {"positions": constant([131069, 131070, 131071])},
            _H4 | {"rope": Rope(base=1e6)},
            "full",
            15,
        ),
        Case(
            "positions uint8",
            layer(1) | {"positions": constant([3, 9, 255], "uint8")},
            _H4 | {"rope": Rope()},
            "full",
            12,
        ),
    ]
    return (*_crossed(), *cases, *_models())


def _models() -> Iterator[Case]:
    """Layers of small models as they are; of large ones their heads, on fewer hidden numbers."""
    names = {
        "SmolLM2-135M": 576,
        "Qwen2.5-0.5B": 896,
        "Qwen3-0.6B": 256,
        "Llama-3.2-1B": 256,
        "Qwen2.5-7B": 64,
        "Llama-3-8B": 64,
    }
    for name, hidden in names.items():
        size = MODELS[name]
        sizes: dict[str, Any] = {
            "model": hidden,
            "heads": size.heads,
            "kv_heads": size.kv_heads,
            "dim": size.head_dim,
            "norm": name.startswith("Qwen3"),
        }
        settings = {
            "num_heads": size.heads,
            "num_kv_heads": size.kv_heads,
            "causal": True,
            "rope": Rope(base=size.rope_base, scaling=size.scaling),
            "norm_eps": size.eps,
        }
        decode, prefill = layer(1, length=1, past=40, **sizes), layer(1, length=11, **sizes)
        if name.startswith("Qwen2.5"):
            biases = {f"{n}_bias": normal(decode[f"{n}_proj"].shape[0]) for n in "qkv"}
            decode, prefill = decode | biases, prefill | biases
        words = f"E{hidden},Hq{size.heads},Hkv{size.kv_heads},D{size.head_dim}"
        yield Case(f"{name},decode,{words},P40", decode, settings | {"return_kv": True}, "model", 12)
        yield Case(f"{name},prefill,{words},L11", prefill, settings, "model", 12)
