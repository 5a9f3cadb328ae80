"""For each property a kernel that it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.conformance.fake_backend import right
from tinyllm.catalogue import CATALOGUE
from tinyllm.spec.scheme import QuantWeight

Kernel = Callable[..., Any]


def changed(op: str, **new: Callable[[dict[str, Any]], Any]) -> Kernel:
    """The op on other arguments: each of `new` is made from all that were given."""
    names = [i.name for i in CATALOGUE[op].positional]
    signature, correct = CATALOGUE[op].signature, right(op)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        given = (
            {p.name: p.default for p in signature.parameters.values()} | dict(zip(names, args, strict=False)) | kwargs
        )
        given |= {name: make(given) for name, make in new.items()}
        return correct(*[given.pop(n) for n in names], **given)

    kernel.__signature__ = signature  # type: ignore[attr-defined]
    return kernel


def after(op: str, change: Callable[..., Any]) -> Kernel:
    """The op, and a change of what it gives: `change(output, *args, **kwargs)`."""
    correct = right(op)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return change(correct(*args, **kwargs), *args, **kwargs)

    kernel.__signature__ = CATALOGUE[op].signature  # type: ignore[attr-defined]
    return kernel


def beside(op: str) -> Kernel:
    """A hundredth of the last entry of a batch gets into the first."""

    def leak(value: Any) -> Any:
        if isinstance(value, QuantWeight):
            return value.with_arrays({name: leak(a) for name, a in value.arrays.items()})
        if value.shape and value.shape[0] > 1:
            value = value.copy()
            value[0] = value[-1] if value.dtype.kind in "iu" else value[0] + value[-1] * value.dtype.type(0.01)
        return value

    return after(op, lambda y, *args, **kwargs: tuple(map(leak, y)) if isinstance(y, tuple) else leak(y))


def _unshifted_softmax(x: Any, *, axis: int = -1) -> Any:
    weights = np.exp(x)
    return weights / weights.sum(axis=axis, keepdims=True)


def _eps_outside(x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
    return x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + np.float32(eps)) * weight


def _start_aligned(op: str) -> Kernel:
    """causal, aligned to the first key."""

    def mask(given: dict[str, Any]) -> Any:
        shape = given["q"].shape[-2], given["k"].shape[-2]
        return np.tril(np.ones(shape, bool)) if given["causal"] else given["mask"]

    return changed(op, mask=mask, causal=lambda given: False)


def _window(step: int, smallest: int = 1) -> Callable[[dict[str, Any]], Any]:
    return lambda given: None if given["window"] is None else max(smallest, given["window"] + step)


def _narrow_window(given: dict[str, Any]) -> Any:
    return None if given["window"] is None else min(given["window"], 2)


def _loud_sinks(given: dict[str, Any]) -> Any:
    return None if given["sinks"] is None else np.maximum(given["sinks"], np.float32(0))


def _first_key_halved(op: str) -> Kernel:
    name = "key" if op == "mha" else "k"

    def halve(given: dict[str, Any]) -> Any:
        first = np.arange(given[name].shape[-2])[:, None] == 0
        return np.where(first, _scaled(given[name], 0.5), given[name])

    return changed(op, **{name: halve})


def _longest(given: dict[str, Any]) -> Any:
    lengths = given["lengths"]
    return lengths if lengths is None else np.full_like(lengths, lengths.max(initial=0))


def _inverted(given: dict[str, Any]) -> Any:
    return ~given["mask"] if str(getattr(given["mask"], "dtype", "")) == "bool" else given["mask"]


def _tiled_heads(name: str) -> Callable[[dict[str, Any]], Any]:
    def tile(given: dict[str, Any]) -> Any:
        heads, a = given["q"].shape[-3], given[name]
        return np.concatenate([a] * (heads // a.shape[-3]), axis=-3)

    return tile


def _quadratic_angle(given: dict[str, Any]) -> Any:
    offset = given["offset"]
    return None if offset is None else offset * np.abs(offset)


def _no_past_position(given: dict[str, Any]) -> Any:
    return np.arange(given["query"].shape[-2]) if given["rope"] is not None else given["positions"]


def _scaled(value: Any, factor: float) -> Any:
    return value * value.dtype.type(factor)


def _one_level_up(weight: QuantWeight, dtype: Any = np.float32) -> Any:
    return np.repeat(weight.arrays["scales"], weight.scheme.block, axis=-1).astype(dtype)


def _quantized_a_little_up(y: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """Each number of a quantized weight a hundredth too large; dense ones as they are."""
    more = x.sum(axis=-1, keepdims=x.ndim > 1) * x.dtype.type(0.01)
    return y + more if isinstance(weight, QuantWeight) else y


def _wide_scales(q: QuantWeight, *args: Any, **kwargs: Any) -> QuantWeight:
    return q.with_arrays({n: _scaled(a, 15 / 16) if n == "scales" else a for n, a in q.arrays.items()})


def _as_if_new(given: dict[str, Any]) -> Any:
    """Every sequence begins."""
    return np.diff(given["q_start"])


WRONG: dict[tuple[str, str], Kernel] = {
    ("softmax", "shift of a row"): _unshifted_softmax,
    ("softmax", "rows sum to 1"): after("softmax", lambda y, *a, **k: _scaled(y, 1.001)),
    ("rms_norm", "scale of a row"): _eps_outside,
    ("rms_norm", "weight of a row"): changed("rms_norm", weight=lambda g: g["weight"] + 1),
    ("layer_norm", "shift of a row"): after("layer_norm", lambda y, x, *a, **k: y + x * x.dtype.type(0.1)),
    ("silu", "odd part"): after("silu", lambda y, x: y + x * x.dtype.type(1e-3)),
    ("gelu", "odd part"): after("gelu", lambda y, x, **k: y + x * x.dtype.type(1e-3)),
    ("swiglu", "silu times up"): changed("swiglu", gate=lambda g: g["up"], up=lambda g: g["gate"]),
    ("geglu", "gelu times up"): changed("geglu", gate=lambda g: g["up"], up=lambda g: g["gate"]),
    ("sigmoid", "mirror image"): after("sigmoid", lambda y, x: _scaled(y, 1.001)),
    ("softcap", "mirror image"): after("softcap", lambda y, x, cap: np.where(x < 0, _scaled(y, 1.001), y)),
    ("scale", "in two steps"): changed("scale", factor=lambda g: max(g["factor"], 0.4)),
    ("add", "either order"): changed("add", y=lambda g: _scaled(g["y"], 1.001)),
    ("mul", "either order"): after("mul", lambda y, x, other: y + x * x.dtype.type(0.01)),
    ("split", "parts together"): changed("split", x=lambda g: np.flip(g["x"], g["axis"])),
    ("split_heads", "heads merged"): after("split_heads", lambda y, x, heads: tuple(np.flip(a, -2) for a in y)),
    ("merge_heads", "heads merged"): changed("merge_heads", x=lambda g: np.flip(g["x"], -2)),
    ("rope", "norms stay"): after("rope", lambda y, x, **k: _scaled(y, 1.001)),
    ("rope", "relative position only"): changed("rope", offset=_quadratic_angle),
    ("rope", "offset is positions"): changed("rope", offset=lambda g: None),
    ("rope", "angles then rotation"): changed("rope", traditional=lambda g: not g["traditional"]),
    ("rope_angles", "on the circle"): after("rope_angles", lambda y, *a, **k: (_scaled(y[0], 1.001), y[1])),
    ("rope_angles", "as if alone"): changed("rope_angles", lengths=_longest),
    ("rope_rotate", "turned back"): changed("rope_rotate", sin=lambda g: np.abs(g["sin"])),
    **{(op, "order of keys"): _first_key_halved(op) for op in ("sdpa", "gqa", "mha")},
    ("gqa", "heads repeated"): changed("gqa", k=_tiled_heads("k"), v=_tiled_heads("v")),
    ("sdpa", "step by step"): _start_aligned("sdpa"),
    ("gqa", "step by step"): _start_aligned("gqa"),
    ("mha", "step by step"): changed("mha", positions=_no_past_position),
    **{(op, "no sinks"): changed(op, sinks=_loud_sinks) for op in ("sdpa", "gqa", "mha", "paged_attention")},
    **{(op, "wide window"): changed(op, window=_narrow_window) for op in ("sdpa", "gqa", "mha", "paged_attention")},
    **{(op, "two kinds of mask"): changed(op, mask=_inverted) for op in ("sdpa", "gqa", "mha")},
    **{(op, "causal is a mask"): changed(op, window=_window(1)) for op in ("sdpa", "gqa", "mha")},
    ("linear", "linear"): after("linear", lambda y, x, weight, bias=None: y if bias is None else y + np.maximum(y, 0)),
    ("embedding", "rows of the table"): changed("embedding", ids=lambda g: np.maximum(g["ids"] - 1, 0)),
    ("linear", "dequantized first"): after("linear", _quantized_a_little_up),
    ("embedding", "dequantized first"): changed("embedding", ids=lambda g: np.maximum(g["ids"] - 1, 0)),
    ("quantize", "a second time"): after("quantize", _wide_scales),
    ("dequantize", "once is enough"): after("dequantize", lambda w, weight: w + _one_level_up(weight, w.dtype)),
    ("kv_append", "one by one"): changed("kv_append", k=lambda g: np.flip(g["k"], 0)),
    ("paged_attention", "pages anywhere"): changed(
        "paged_attention",
        block_table=lambda g: np.where(g["block_table"] < 0, -1, np.sort(g["block_table"], axis=1)[:, ::-1]),
    ),
    ("paged_attention", "batch neighbours"): beside("paged_attention"),
    ("paged_attention", "as gqa"): changed("paged_attention", window=_window(1)),
    ("paged_attention", "step by step"): changed(
        "paged_attention", kv_len=lambda g: np.maximum(g["kv_len"] - 1, np.diff(g["q_start"]))
    ),
    **{(op, "batch neighbours"): beside(op) for op in ("short_conv", "gated_delta")},
    **{(op, "step by step"): changed(op, kv_len=_as_if_new) for op in ("short_conv", "gated_delta")},
    **{
        (op, "rows anywhere"): changed(op, state_rows=lambda g: np.arange(len(g["state_rows"])))
        for op in ("short_conv", "gated_delta")
    },
    ("moe_router", "order of tokens"): changed("moe_router", logits=lambda g: np.maximum(g["logits"], g["logits"][:1])),
    ("moe_experts", "order of tokens"): changed("moe_experts", weights=lambda g: 0 * g["weights"] + g["weights"][:1]),
    ("moe_experts", "experts that nobody goes to"): after(
        "moe_experts", lambda y, x, experts, weights, gate_proj, *a, **k: y + 0 * gate_proj.sum()
    ),
    ("moe_experts", "sum of its experts"): changed(
        "moe_experts", weights=lambda g: g["weights"] / g["weights"].sum(axis=-1, keepdims=True)
    ),
}
"""By op and property; for `batch neighbours` elsewhere `beside` makes one."""
