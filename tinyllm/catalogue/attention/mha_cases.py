"""The cases of `mha`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyllm.errors import InvalidInputError, UnsupportedError
from tinyllm.spec.cases import BadInput, Case, Draw, additive_mask, booleans, constant, integers, normal, poisoned
from tinyllm.spec.rope import Rope, RopeScaling


def layer(
    *lead: int,
    length: int = 3,
    model: int = 12,
    heads: int = 4,
    kv_heads: int | None = None,
    dim: int = 4,
    value_dim: int | None = None,
    key: tuple[int, int] | None = None,
    value: int | None = None,
    out: int | None = None,
    bias: bool = False,
    norm: bool = False,
    past: int | None = None,
) -> dict[str, Draw]:
    """Inputs of a layer. key: (S, Ek) of other keys; value: Ev where it is not Ek; past: cached keys."""
    kv_heads, value_dim, out = kv_heads or heads, value_dim or dim, out or model
    keys, ek = key or (length, model)
    ev = value or ek
    sizes = {
        "q": (heads * dim, model),
        "k": (kv_heads * dim, ek),
        "v": (kv_heads * value_dim, ev),
        "o": (out, heads * value_dim),
    }
    inputs = {"query": normal(*lead, length, model)}
    inputs |= {f"{n}_proj": normal(*size, scale=float(size[1]) ** -0.5) for n, size in sizes.items()}
    if key:
        inputs["key"] = normal(*lead, keys, ek)
    if value:
        inputs["value"] = normal(*lead, keys, ev)
    if bias:
        inputs |= {f"{n}_bias": normal(size[0]) for n, size in sizes.items()}
    if norm:
        inputs |= {"q_norm": normal(dim), "k_norm": normal(dim)}
    if past is not None:
        inputs |= {"past_k": normal(*lead, kv_heads, past, dim), "past_v": normal(*lead, kv_heads, past, value_dim)}
    return inputs


def with_weights(inputs: dict[str, Draw], draw: Callable[..., Draw], names: str = "qkvo") -> dict[str, Draw]:
    """The same layer with some of its projections drawn anew: `draw(*shape)`."""
    return inputs | {f"{n}_proj": draw(*inputs[f"{n}_proj"].shape) for n in names}


def without(inputs: dict[str, Draw], *names: str) -> dict[str, Draw]:
    return {name: draw for name, draw in inputs.items() if name not in names}


_H4 = {"num_heads": 4}
_H4KV2 = {"num_heads": 4, "num_kv_heads": 2}
_CAUSAL = _H4 | {"causal": True}
_SELF = layer(2)
_BIASED = layer(2, bias=True)
_CROSS = layer(2, key=(5, 7), value=6, bias=True)
_CACHED = layer(2, length=2, past=3, kv_heads=2)
_CACHED_ONLY = without(_CACHED, "k_proj", "v_proj")
_NORMED = layer(2, length=3, norm=True, kv_heads=2)
_EXTRA = {"bias_k": normal(16), "bias_v": normal(16)}
_ROPE = Rope()
_BY_LENGTH = Rope(scaling=RopeScaling("dynamic", 2.0, 32))
_SMOL: dict[str, Any] = {"model": 576, "heads": 9, "kv_heads": 3, "dim": 64}
_SMOL_SET = {"num_heads": 9, "num_kv_heads": 3, "causal": True, "rope": Rope(base=100000.0)}

CASES = (
    Case("B2,L3,E12,H4", _SELF, _H4),
    Case("L3,E12,H4,causal", layer(), _CAUSAL, decision=12),
    Case("A2,B2,L3,E12,H4", layer(2, 2), _H4),
    Case("B2,L3,bias", _BIASED, _CAUSAL, decision=12),
    Case("H4,D5,Dv3,out7", layer(2, dim=5, value_dim=3, out=7), _H4, decision=8),
    Case("gqa,H4,Hkv2", layer(2, kv_heads=2), _H4KV2 | {"causal": True}, decision=12),
    Case("cross,kdim7,vdim6", _CROSS, _H4, decision=12),
    Case("cross,value is key", layer(2, key=(5, 7)), _H4, decision=12),
    Case("cross,causal", layer(2, key=(5, 12)), _CAUSAL, decision=6),
    Case("bool mask", _BIASED | {"mask": booleans(3, 3)}, _H4, decision=1),
    Case("float mask,causal", _SELF | {"mask": additive_mask(3, 3)}, _CAUSAL, decision=4),
    Case("full mask", _SELF | {"mask": booleans(2, 4, 3, 3)}, _H4, decision=2),
    Case("key mask", _SELF | {"key_mask": constant([[True, True, False], [False, True, True]])}, _CAUSAL, decision=1),
    Case(
        "padding NaN",
        layer(1, key=(4, 12))
        | {
            "key": poisoned(np.arange(4)[:, None] >= 2, 1, 4, 12),
            "key_mask": constant([[True, True, False, False]]),
        },
        _H4,
        decision=5,
    ),
    Case(
        "nothing to see",
        _BIASED | {"key_mask": constant([[False] * 3, [True] * 3])},
        _H4 | {"need_weights": "heads"},
        decision=5,
    ),
    Case("window2", _SELF, _CAUSAL | {"window": 2}, decision=7),
    Case("scale0", _SELF, _H4 | {"scale": 0.0}, decision=9),
    Case("softcap", _SELF, _CAUSAL | {"softcap": 4.0}, decision=4),
    Case("sinks,weights", _SELF | {"sinks": normal(4)}, _H4 | {"need_weights": "heads"}, decision=11),
    Case("weights,heads", _SELF, _CAUSAL | {"need_weights": "heads"}, decision=12),
    Case("weights,mean", _CROSS, _H4 | {"need_weights": "mean"}, decision=12),
    Case("bias_k", _SELF | _EXTRA, _H4 | {"need_weights": "mean"}, decision=12),
    Case("zero attn", _SELF, _CAUSAL | {"add_zero_attn": True, "need_weights": "mean"}, decision=12),
    Case(
        "bias_k,zero attn,masks",
        _SELF | _EXTRA | {"mask": additive_mask(1, 3), "key_mask": constant([[False] * 3, [True] * 3])},
        _CAUSAL | {"add_zero_attn": True, "need_weights": "heads", "return_kv": True},
        decision=12,
    ),
    Case("bias_k,mask of one column", _SELF | _EXTRA | {"mask": booleans(3, 1)}, _H4, decision=12),
    Case("rope", layer(2, kv_heads=2), _H4KV2 | {"causal": True, "rope": _ROPE}, decision=12),
    Case(
        "rope,traditional,dims2",
        _SELF,
        _CAUSAL | {"rope": Rope(dims=2, traditional=True, base=500.0, position_scale=0.5)},
        decision=12,
    ),
    Case("rope,llama3", _SELF, _CAUSAL | {"rope": Rope(scaling=RopeScaling("llama3", 8.0, 8192))}, decision=12),
    Case(
        "rope,positions of L",
        _SELF | {"positions": constant([4, 5, 9], "int32")},
        _CAUSAL | {"rope": _ROPE},
        decision=12,
    ),
    Case(
        "rope,left padding",
        _SELF
        | {
            "positions": constant([[-1, 0, 1], [0, 1, 2]], "int32"),
            "key_mask": constant([[False, True, True], [True] * 3]),
        },
        _CAUSAL | {"rope": _ROPE},
        decision=6,
    ),
    Case("qk norm,rope", _NORMED, _H4KV2 | {"causal": True, "rope": _ROPE, "norm_eps": 1e-5}, decision=12),
    Case(
        "qk norm after rope", _NORMED, _H4KV2 | {"causal": True, "rope": _ROPE, "qk_norm_after_rope": True}, decision=12
    ),
    Case("q norm alone", without(_NORMED, "k_norm"), _H4KV2, decision=12),
    Case("cache,P3,L2", _CACHED, _H4KV2 | {"causal": True, "rope": _ROPE, "return_kv": True}, decision=12),
    Case("cache,P0,L2", layer(2, length=2, past=0), _CAUSAL | {"rope": _ROPE, "return_kv": True}, decision=20),
    Case(
        "cache,mask,key mask",
        _CACHED | {"mask": booleans(2, 5), "key_mask": booleans(2, 5)},
        _H4KV2 | {"causal": True},
        decision=4,
    ),
    Case("cached K and V alone", _CACHED_ONLY, _H4KV2 | {"need_weights": "mean"}, decision=12),
    Case(
        "cached K and V alone,rope",
        _CACHED_ONLY | {"positions": constant([1, 2], "int32")},
        _H4KV2 | {"rope": _ROPE},
        decision=12,
    ),
    Case("return kv", _CROSS, _H4 | {"return_kv": True}, decision=12),
    Case("L0", layer(2, length=0), _CAUSAL, decision=20),
    Case("S0", layer(2, key=(0, 12), bias=True), _H4 | {"need_weights": "heads"}, decision=20),
    Case("S0,bias_k", layer(2, key=(0, 12)) | _EXTRA, _H4, decision=20),
    Case("B0", layer(0), _CAUSAL | {"rope": _ROPE}, decision=20),
    Case("B2,L33,E576,smollm", layer(2, length=33, **_SMOL), _SMOL_SET, tier="full"),
    Case(
        "B2,L5,P100,E80,norm",
        layer(2, length=5, model=80, heads=8, kv_heads=2, dim=32, norm=True, bias=True, past=100),
        {"num_heads": 8, "num_kv_heads": 2, "causal": True, "window": 65, "rope": _ROPE, "return_kv": True},
        tier="full",
    ),
    Case("decode:B1,P512,E576", layer(1, length=1, past=512, **_SMOL), _SMOL_SET | {"return_kv": True}, tier="bench"),
    Case("prefill:B1,L128,E576", layer(1, length=128, **_SMOL), _SMOL_SET, tier="bench"),
)


def _bad(
    name: str, inputs: dict[str, Any], match: str, settings: dict[str, Any] | None = None, decision: int | None = 12
) -> BadInput:
    return BadInput(name, inputs, _H4 if settings is None else settings, InvalidInputError, match, decision)


BAD_INPUTS = (
    _bad("no heads", _SELF, "num_heads must be given", {}),
    _bad("heads do not divide", _SELF, "mha: q_proj: expected a number of rows", {"num_heads": 3}),
    _bad("H % Hkv", _SELF, "expected a number of heads", {"num_heads": 4, "num_kv_heads": 3}, 10),
    _bad("k_proj rows", _SELF, "mha: k_proj: expected 8 rows", _H4KV2),
    _bad("k_proj without v_proj", without(_SELF, "v_proj"), "k_proj and v_proj together"),
    _bad("no keys", without(_SELF, "k_proj", "v_proj"), "mha: k_proj: expected k_proj and v_proj, or past_k"),
    _bad(
        "key without k_proj",
        without(_CACHED, "k_proj", "v_proj") | {"key": normal(2, 3, 12)},
        "mha: key: expected k_proj",
        _H4KV2,
    ),
    _bad("past_k without past_v", without(_CACHED, "past_v"), "past_k and past_v together", _H4KV2),
    _bad(
        "past of other heads",
        _CACHED | {"past_k": normal(2, 4, 3, 4), "past_v": normal(2, 4, 3, 4)},
        "past_k: expected 2 heads",
        _H4KV2,
    ),
    _bad("bias_k alone", _SELF | {"bias_k": normal(16)}, "bias_k and bias_v together"),
    _bad("o_proj columns", _SELF | {"o_proj": normal(12, 12)}, "mha: o_proj: expected 16 columns"),
    _bad("value of other length", _CROSS | {"value": normal(2, 4, 6)}, "mha: value: expected shape"),
    _bad("key of another batch", _CROSS | {"key": normal(1, 5, 7)}, "mha: key: expected the leading axes of query"),
    _bad("q_norm too long", _NORMED | {"q_norm": normal(16)}, "mha: q_norm", _H4KV2),
    _bad("mask [B, L, S]", _SELF | {"mask": booleans(2, 3, 3)}, "mha: mask", None, 2),
    _bad("mask without the past", _CACHED | {"mask": booleans(2, 2)}, "mha: mask", _H4KV2, 2),
    _bad("integer mask", _SELF | {"mask": integers(0, 2, 3, 3)}, "cast to bool", None, 3),
    _bad("integer key mask", _SELF | {"key_mask": integers(0, 2, 2, 3)}, "cast to bool", None, 3),
    _bad(
        "positions without rope", _SELF | {"positions": constant([0, 1, 2], "int32")}, "expected rope= with positions"
    ),
    _bad(
        "positions too short",
        _SELF | {"positions": constant([0, 1], "int32")},
        "mha: positions: expected shape",
        _H4 | {"rope": _ROPE},
    ),
    _bad("rope across", _CROSS, "mha: rope: expected None where key is given", _H4 | {"rope": _ROPE}),
    _bad("rope of cached keys alone", _CACHED_ONLY, "mha: positions: expected positions", _H4KV2 | {"rope": _ROPE}),
    _bad("rope dims", _SELF, "mha: rope.dims", _H4 | {"rope": Rope(dims=6)}),
    _bad("rope a word", _SELF, "mha: rope: expected None or a Rope", _H4 | {"rope": "yarn"}),
    _bad(
        "need_weights True",
        _SELF,
        "mha: need_weights: expected one of None, 'heads', 'mean'",
        _H4 | {"need_weights": True},
    ),
    _bad("mask a word", _SELF | {"mask": "causal"}, "mha: mask", None, 13),
    BadInput("rope by length", _SELF, _H4 | {"rope": _BY_LENGTH}, UnsupportedError, "mha: scaling 'dynamic'"),
    BadInput("in_proj_weight", _SELF, _H4 | {"in_proj_weight": 1}, UnsupportedError, "split it into q_proj", 13),
    BadInput("batch_first", _SELF, _H4 | {"batch_first": False}, UnsupportedError, "always batch first", 13),
    BadInput("key_padding_mask", _SELF, _H4 | {"key_padding_mask": 1}, UnsupportedError, "use key_mask", 1),
    BadInput("dropout_p", _SELF, _H4 | {"dropout_p": 0.1}, UnsupportedError, "no dropout", 13),
)
