"""gqa: attention in which a group of query heads shares one head of keys and values."""

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
    attend_groups,
    attention_flops,
    attention_unread,
    check_heads,
    check_masks,
    check_scale,
)
from tinyllm.errors import InvalidInputError, UnsupportedError, invalid
from tinyllm.spec.cases import BadInput, Case, Draw, additive_mask, booleans, constant, integers, normal, poisoned
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
    key_mask: Any = None,
    kv_lengths: Any = None,
    sinks: Any = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
) -> Any:
    additive, seen = all_masks(
        xp, q, k, mask=mask, key_mask=key_mask, kv_lengths=kv_lengths, causal=causal, window=window
    )
    return attend_groups(xp, q, k, v, scale=scale, softcap=softcap, additive=additive, seen=seen, sinks=sinks)[0]


def _check(call: Call) -> None:
    q, k, lead = call.shape("q"), call.shape("k"), call.dims["*B"]
    check_heads(call, q[-3], k[-3])
    check_scale(call, q[-1])
    check_masks(call, lead, q[-3], q[-2], k[-2])
    lengths = call.inputs["kv_lengths"]
    if lengths is not None and lengths.shape != lead:
        raise invalid("gqa", "kv_lengths", f"shape {list(lead)}: one for each sequence", list(lengths.shape))


def _check_values(call: Call, values: Any) -> None:
    lengths, keys = values.get("kv_lengths"), call.shape("k")[-2]
    if lengths is not None and lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= keys:
        raise invalid("gqa", "kv_lengths", f"0 to {keys}", f"{int(lengths.min())} to {int(lengths.max())}")


def _flops(call: Call) -> int:
    q, k, v = call.shape("q"), call.shape("k"), call.shape("v")
    return attention_flops(call, (*call.dims["*B"], q[-3], q[-2], k[-2]), q[-1], v[-1])


def qkv(
    lead: tuple[int, ...], heads: int, kv_heads: int, length: int, keys: int, dim: int, value_dim: int | None = None
) -> dict[str, Draw]:
    """q `[*lead, Hq, L, D]`, k `[*lead, Hkv, S, D]` and v `[*lead, Hkv, S, Dv]` of normal numbers."""
    return {
        "q": normal(*lead, heads, length, dim),
        "k": normal(*lead, kv_heads, keys, dim),
        "v": normal(*lead, kv_heads, keys, value_dim or dim),
    }


def _cached(lengths: tuple[int, ...], heads: int, kv_heads: int, length: int, keys: int, dim: int) -> dict[str, Draw]:
    """A step of `length` queries a sequence over a cache that holds `lengths` keys of each. Its spare room is NaN."""
    past = np.arange(keys)[:, None] >= np.asarray(lengths)[:, None, None, None]
    kv = poisoned(past, len(lengths), kv_heads, keys, dim)
    return {"q": normal(len(lengths), heads, length, dim), "k": kv, "v": kv, "kv_lengths": constant(lengths, "int32")}


_SMALL = qkv((2,), 4, 2, 3, 5, 8)
_LEFT_PADDED = constant([[False, False, True, True, True], [True] * 5])
_ANY_MASKS = qkv((2,), 6, 3, 4, 4, 8) | {"mask": booleans(4, 4), "key_mask": booleans(2, 4)}


def _bad(name: str, match: str, decision: int | None, **inputs: Draw) -> BadInput:
    """A call that is right but for the inputs given."""
    return BadInput(name, _SMALL | inputs, {}, InvalidInputError, f"gqa: {match}", decision)


gqa = OpSpec(
    name="gqa",
    summary="Grouped-query attention: each kv head serves a group of neighbouring query heads. One kv head: "
    "multi-query attention.",
    formula="y[h] = softmax(scale * Q[h] K[h // G]^T + mask) V[h // G], G = Hq / Hkv",
    source="Ainslie et al. 2023, arXiv:2305.13245; multi-query: Shazeer 2019, arXiv:1911.02150",
    inputs=(
        Input("q", "*B Hq L D"),
        Input("k", "*B Hkv S D"),
        Input("v", "*B Hkv S Dv"),
        Input(
            "mask", "*mask", "mask", optional=True, about="[L, S] or [*B, Hq, L, S]; bool True = attend, float added"
        ),
        Input("key_mask", "*key_mask S", "bool", optional=True, about="[*B, S]: True = attend"),
        Input(
            "kv_lengths",
            "*kv_lengths",
            "int",
            optional=True,
            about="[*B]: valid keys; those at or past it are never read",
        ),
        Input(
            "sinks", "Hq", "float", optional=True, about="a raw logit per query head, in the sum and not in the output"
        ),
    ),
    attributes=SETTINGS,
    outputs=(Output("y", "*B Hq L Dv"),),
    reference=_reference,
    check=_check,
    check_values=_check_values,
    flops=_flops,
    scale=partial(attention_scale, attend_groups),
    sums=attention_sums,
    more_cases="tinyllm.catalogue.cases.groups:gqa",
    unread=partial(attention_unread, 3),
    host=("kv_lengths",),
    notes=(
        *NOTES,
        "kv head j serves query heads j*G .. (j+1)*G-1; K and V are never repeated in memory.",
        "With `kv_lengths`, `causal` and `window` are aligned to `kv_lengths[b]`: the last query stands on the "
        "last valid key.",
    ),
    refused=REFUSED | {"num_kv_heads": "it is the head axis of k and v", "num_heads": "it is the head axis of q"},
    cases=(
        Case("B2,Hq4,Hkv2,L3,S5,D8", _SMALL, decision=10),
        Case("Hq6,Hkv2,L3,S3,D4,causal", qkv((), 6, 2, 3, 3, 4), {"causal": True}, decision=10),
        Case("B2,Hq4,Hkv1,L2,S5,D4,mqa,causal", qkv((2,), 4, 1, 2, 5, 4), {"causal": True}, decision=6),
        Case("B2,Hq3,Hkv3,L3,S3,D4,mha", qkv((2,), 3, 3, 3, 3, 4)),
        Case("A2,B3,Hq4,Hkv2,L2,S3,D4", qkv((2, 3), 4, 2, 2, 3, 4)),
        Case("B2,Hq4,Hkv2,L1,S7,D8,Dv3", qkv((2,), 4, 2, 1, 7, 8, 3), {"causal": True}, decision=8),
        Case("kv of batch 1", {"q": normal(2, 4, 3, 8), "k": normal(1, 2, 5, 8), "v": normal(1, 2, 5, 8)}, decision=10),
        Case(
            "kv without batch,mask",
            qkv((), 4, 2, 3, 5, 8) | {"q": normal(2, 4, 3, 8), "mask": booleans(2, 1, 3, 5)},
            decision=10,
        ),
        Case("q without batch", qkv((2, 2), 4, 2, 3, 5, 8) | {"q": normal(4, 3, 8)}, {"causal": True}, decision=10),
        Case(
            "A3,B1 and B2",
            qkv((2,), 4, 2, 3, 5, 8) | {"q": normal(3, 1, 4, 3, 8), "key_mask": booleans(1, 2, 5)},
            decision=10,
        ),
        Case("B2,Hq4,Hkv2,float mask,causal", _SMALL | {"mask": additive_mask(3, 5)}, {"causal": True}, decision=4),
        Case("B2,Hq4,Hkv2,mask per head", _SMALL | {"mask": booleans(1, 4, 3, 5)}, decision=2),
        Case("B2,Hq4,Hkv2,mask per sequence", _SMALL | {"mask": booleans(2, 1, 1, 5)}, decision=2),
        Case("B2,Hq4,Hkv2,key mask,causal", _SMALL | {"key_mask": _LEFT_PADDED}, {"causal": True}, decision=6),
        Case(
            "B2,Hq4,Hkv2,key mask of one",
            _SMALL | {"key_mask": constant([[True, True, False, True, False]])},
            decision=1,
        ),
        Case("B2,Hq4,Hkv2,nothing to see", _SMALL | {"key_mask": constant([[False] * 5, [True] * 5])}, decision=5),
        Case("B2,Hq6,Hkv3,all masks", _ANY_MASKS, {"causal": True, "window": 3}, decision=4),
        Case("B3,Hq4,Hkv2,L2,S6,lengths,causal", _cached((6, 2, 4), 4, 2, 2, 6, 4), {"causal": True}, decision=6),
        Case("B3,Hq4,Hkv2,L2,S6,lengths", _cached((5, 0, 1), 4, 2, 2, 6, 4), decision=6),
        Case("B2,Hq4,Hkv2,L3,S6,lengths,short", _cached((1, 2), 4, 2, 3, 6, 4), {"causal": True}, decision=5),
        Case(
            "B2,Hq4,Hkv2,L2,S6,lengths,window2",
            _cached((5, 3), 4, 2, 2, 6, 4),
            {"causal": True, "window": 2},
            decision=7,
        ),
        Case("B2,Hq4,Hkv2,L2,S6,lengths,window2,both sides", _cached((5, 3), 4, 2, 2, 6, 4), {"window": 2}, decision=7),
        Case(
            "Hq4,Hkv2,L2,S6,length",
            qkv((), 4, 2, 2, 6, 4) | {"kv_lengths": constant(3, "int32")},
            {"causal": True},
            decision=6,
        ),
        Case("B2,Hq4,Hkv2,window2", _SMALL, {"window": 2}, decision=7),
        Case("B2,Hq4,Hkv2,scale0", _SMALL, {"scale": 0.0}, decision=9),
        Case("B2,Hq4,Hkv2,softcap", _SMALL, {"softcap": 5.0, "causal": True}, decision=4),
        Case("B2,Hq4,Hkv2,sinks", _SMALL | {"sinks": normal(4)}, {"causal": True}, decision=11),
        Case("B0", qkv((0,), 4, 2, 3, 5, 8), decision=20),
        Case("L0", qkv((2,), 4, 2, 0, 5, 8), decision=20),
        Case("S0", qkv((2,), 4, 2, 3, 0, 8), decision=20),
        Case("B2,Hq9,Hkv3,L33,S65,D64,causal", qkv((2,), 9, 3, 33, 65, 64), {"causal": True}, tier="full"),
        Case(
            "B4,Hq8,Hkv2,L1,S200,D80,lengths",
            _cached((200, 1, 77, 128), 8, 2, 1, 200, 80),
            {"causal": True},
            tier="full",
        ),
        Case(
            "Hq14,Hkv2,L33,S100,D40,window17",
            qkv((), 14, 2, 33, 100, 40) | {"sinks": normal(14)},
            {"causal": True, "window": 17},
            tier="full",
        ),
        Case("decode:B1,Hq9,Hkv3,S512,D64", qkv((1,), 9, 3, 1, 512, 64), {"causal": True}, tier="bench"),
        Case("prefill:B1,Hq9,Hkv3,L128,D64,causal", qkv((1,), 9, 3, 128, 128, 64), {"causal": True}, tier="bench"),
    ),
    bad_inputs=(
        _bad("Hq % Hkv", "q: expected a number of heads", 10, **qkv((2,), 4, 3, 2, 3, 4)),
        _bad("2-d", "q: expected shape", 10, q=normal(3, 4), k=normal(5, 4), v=normal(5, 4)),
        _bad("Hk is not Hv", "v: expected shape", 10, v=normal(2, 4, 5, 8)),
        _bad("mask of 3 axes for 4", "mask: expected 2 axes [L, S] or the 4", 2, mask=booleans(4, 3, 5)),
        _bad("mask by kv heads", "mask: expected a shape that broadcasts", 2, mask=booleans(2, 2, 3, 5)),
        _bad("key mask enlarges", "key_mask: expected a shape", 2, **qkv((1,), 4, 2, 3, 5, 8), key_mask=booleans(2, 5)),
        _bad(
            "integer key mask",
            "key_mask: expected dtype bool (True = attend; cast to bool",
            3,
            key_mask=integers(0, 2, 2, 5),
        ),
        _bad("length past S", "kv_lengths: expected 0 to 5, got 5 to 6", 20, kv_lengths=constant([5, 6])),
        _bad("length negative", "kv_lengths: expected 0 to 5, got -1 to 5", 20, kv_lengths=constant([5, -1])),
        _bad(
            "length past S, unsigned", "kv_lengths: expected 0 to 5", 20, kv_lengths=constant([5, 2**64 - 1], "uint64")
        ),
        _bad("one length for two", "kv_lengths: expected shape [2]", None, kv_lengths=constant([5])),
        _bad("lengths by head", "kv_lengths: expected shape [2]", None, kv_lengths=integers(0, 5, 2, 4)),
        _bad("float lengths", "kv_lengths: expected an integer dtype", None, kv_lengths=constant([5.0, 3.0])),
        _bad("sinks by kv heads", "sinks: expected shape", 11, sinks=normal(2)),
        BadInput("enable_gqa", _SMALL, {"enable_gqa": True}, UnsupportedError, "use ops.gqa", decision=13),
        BadInput("scale inf", _SMALL, {"scale": float("inf")}, InvalidInputError, "gqa: scale", decision=9),
    ),
)
