"""sdpa: scaled dot-product attention, which gives each query a weighted mean of the values."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.errors import attention_scale, attention_sums
from tinyllm.catalogue.attention.formula import (
    NOTES,
    REFUSED,
    SETTINGS,
    all_masks,
    attend,
    attention_flops,
    attention_unread,
    check_masks,
    check_scale,
)
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.spec.cases import BadInput, Case, Draw, additive_mask, booleans, constant, normal
from tinyllm.spec.op_spec import Input, OpSpec
from tinyllm.spec.outputs import Output
from tinyllm.spec.types import Call


def _reference(
    xp: Any,
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    sinks: Any = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Any:
    additive, seen = all_masks(xp, q, k, mask=mask, causal=causal, window=window)
    if sinks is not None:
        sinks = xp.reshape(sinks, (*sinks.shape, 1, 1))
    return attend(xp, q, k, v, scale=scale, softcap=softcap, additive=additive, seen=seen, sinks=sinks)[0]


def _check(call: Call) -> None:
    q, k = call.shape("q"), call.shape("k")
    lead = call.dims["*B"]
    check_scale(call, q[-1])
    check_masks(call, lead, q[-2], k[-2])
    sinks = call.inputs["sinks"]
    if sinks is not None and sinks.shape != lead[-1:]:
        raise invalid("sdpa", "sinks", f"shape {list(lead[-1:])}: one for each head", list(sinks.shape))


def _flops(call: Call) -> int:
    q, k, v = call.shape("q"), call.shape("k"), call.shape("v")
    return attention_flops(call, (*call.dims["*B"], q[-2], k[-2]), q[-1], v[-1])


def qkv(lead: tuple[int, ...], length: int, keys: int, dim: int, value_dim: int | None = None) -> dict[str, Draw]:
    """q `[*lead, L, D]`, k `[*lead, S, D]` and v `[*lead, S, Dv]` of normal numbers."""
    return {"q": normal(*lead, length, dim), "k": normal(*lead, keys, dim), "v": normal(*lead, keys, value_dim or dim)}


def _poisoned(keys: int, bad: int, dim: int) -> Draw:
    """Keys or values `[keys, dim]`, NaN and inf in the last `bad` rows, which no query attends to."""

    def make(rng: Any) -> Any:
        values = rng.standard_normal((keys, dim))
        values[-bad:] = np.nan
        values[-1] = np.inf
        return values

    return Draw((keys, dim), make)


sdpa = OpSpec(
    name="sdpa",
    summary="Scaled dot-product attention over the last two axes; heads, if any, are the last leading axis.",
    formula="softmax(scale * Q K^T + mask) V",
    source="Vaswani et al. 2017, arXiv:1706.03762; sinks: Xiao et al. 2023, arXiv:2309.17453",
    inputs=(
        Input("q", "*B L D"),
        Input("k", "*B S D"),
        Input("v", "*B S Dv"),
        Input(
            "mask",
            "*mask",
            "mask",
            optional=True,
            about="[L, S] or the rank of the scores; bool True = attend, float added",
        ),
        Input(
            "sinks",
            "*sinks",
            "float",
            optional=True,
            about="[H]: a raw logit per head, in the sum and not in the output",
        ),
    ),
    attributes=SETTINGS,
    outputs=(Output("y", "*B L Dv"),),
    reference=_reference,
    check=_check,
    flops=_flops,
    scale=partial(attention_scale, attend),
    sums=attention_sums,
    more_cases="tinyllm.catalogue.cases.sdpa:sdpa",
    unread=partial(attention_unread, 2),
    notes=NOTES,
    refused=REFUSED,
    cases=(
        Case("L3,S5,D4", qkv((), 3, 5, 4)),
        Case("B2,H3,L4,S4,D8,causal", qkv((2, 3), 4, 4, 8), {"causal": True}),
        Case("H2,L2,S6,D4,causal", qkv((2,), 2, 6, 4), {"causal": True}, decision=6),
        Case("H2,L5,S3,D4,causal", qkv((2,), 5, 3, 4), {"causal": True}, decision=5),
        Case("H2,L1,S9,D16,Dv5", qkv((2,), 1, 9, 16, 5), decision=8),
        Case("H2,L4,S4,D4,bool mask", qkv((2,), 4, 4, 4) | {"mask": booleans(4, 4)}, decision=1),
        Case("B2,H2,L3,S4,D4,full mask", qkv((2, 2), 3, 4, 4) | {"mask": booleans(2, 1, 3, 4)}, decision=2),
        Case(
            "H2,L3,S4,D4,float mask,causal",
            qkv((2,), 3, 4, 4) | {"mask": additive_mask(3, 4)},
            {"causal": True},
            decision=4,
        ),
        Case(
            "H1,L2,S3,D4,row masked",
            qkv((1,), 2, 3, 4) | {"mask": constant([[True, False, True], [False] * 3])},
            decision=5,
        ),
        Case("H2,L6,S6,D4,window2", qkv((2,), 6, 6, 4), {"window": 2}, decision=7),
        Case("H2,L6,S8,D4,window3,causal", qkv((2,), 6, 8, 4), {"window": 3, "causal": True}, decision=7),
        Case("H2,L3,S3,D4,scale0", qkv((2,), 3, 3, 4), {"scale": 0.0}, decision=9),
        Case("H2,L3,S3,D4,scale-1", qkv((2,), 3, 3, 4), {"scale": -1.0}, decision=9),
        Case("H2,L3,S4,D8,softcap", qkv((2,), 3, 4, 8), {"softcap": 5.0, "causal": True}, decision=4),
        Case("B2,H3,L3,S4,D4,sinks", qkv((2, 3), 3, 4, 4) | {"sinks": normal(3)}, decision=11),
        Case("L2,S3,D4,sink", qkv((), 2, 3, 4) | {"sinks": constant(0.5, "float64")}, decision=11),
        Case("kv broadcast", {"q": normal(2, 4, 3, 8), "k": normal(2, 1, 5, 8), "v": normal(1, 1, 5, 8)}, decision=10),
        Case(
            "L2,S6,D4,hidden NaN",
            {
                "q": normal(2, 4),
                "k": _poisoned(6, 3, 4),
                "v": _poisoned(6, 3, 4),
                "mask": constant([[True, True, False, False, False, False], [True, True, True, False, False, False]]),
            },
            decision=5,
        ),
        Case("L0,S4,D4", qkv((2,), 0, 4, 4), decision=20),
        Case("L2,S0,D4", qkv((2,), 2, 0, 4), decision=20),
        Case("B0,L2,S3,D4", qkv((0,), 2, 3, 4), decision=20),
        Case("B2,H3,L33,S65,D64,causal", qkv((2, 3), 33, 65, 64), {"causal": True}, tier="full"),
        Case("H4,L128,S128,D16,window17,causal", qkv((4,), 128, 128, 16), {"causal": True, "window": 17}, tier="full"),
        Case("decode:H9,S512,D64", qkv((9,), 1, 512, 64), tier="bench"),
        Case("prefill:H9,L128,D64,causal", qkv((9,), 128, 128, 64), {"causal": True}, tier="bench"),
    ),
    bad_inputs=(
        BadInput(
            "D differs",
            {"q": normal(2, 4), "k": normal(3, 5), "v": normal(3, 5)},
            {},
            InvalidInputError,
            "sdpa: k: expected shape",
        ),
        BadInput(
            "S differs",
            {"q": normal(2, 4), "k": normal(3, 4), "v": normal(2, 4)},
            {},
            InvalidInputError,
            "sdpa: v: expected shape",
        ),
        BadInput(
            "mask of 3 axes for 4",
            qkv((2, 2), 3, 4, 4) | {"mask": booleans(2, 3, 4)},
            {},
            InvalidInputError,
            "sdpa: mask",
            2,
        ),
        BadInput(
            "mask enlarges",
            qkv((1,), 3, 4, 4) | {"mask": booleans(2, 3, 4)},
            {},
            InvalidInputError,
            "sdpa: mask",
            decision=2,
        ),
        BadInput(
            "integer mask",
            qkv((1,), 3, 4, 4) | {"mask": constant([[1, 0, 1, 1]] * 3)},
            {},
            InvalidInputError,
            "cast to bool",
            3,
        ),
        BadInput(
            "mask a word", qkv((1,), 3, 4, 4) | {"mask": "causal"}, {}, InvalidInputError, "sdpa: mask", decision=13
        ),
        BadInput(
            "scale NaN", qkv((1,), 3, 4, 4), {"scale": float("nan")}, InvalidInputError, "sdpa: scale", decision=9
        ),
        BadInput("window 0", qkv((1,), 3, 4, 4), {"window": 0}, InvalidInputError, "sdpa: window", decision=7),
        BadInput("D 0", qkv((1,), 3, 4, 0), {}, InvalidInputError, "sdpa: scale", decision=9),
        BadInput(
            "is_causal", qkv((1,), 3, 4, 4), {"is_causal": True}, UnsupportedError, "use causal=True", decision=13
        ),
        BadInput(
            "sinks of wrong length",
            qkv((2,), 3, 4, 4) | {"sinks": normal(3)},
            {},
            InvalidInputError,
            "sdpa: sinks",
            decision=11,
        ),
        BadInput(
            "batch 2 and 3",
            {"q": normal(2, 3, 4)} | dict.fromkeys("kv", normal(3, 3, 4)),
            {},
            InvalidInputError,
            "broadcast",
            10,
        ),
    ),
)
