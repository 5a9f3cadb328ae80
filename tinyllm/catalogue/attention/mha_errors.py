"""How rounding errors go through an attention layer, to first order and in units of eps: what the bounds of `mha` are
relative to. numpy only.

With d the error of what it stands before:

    projection    d p = |x| |W|^T + |b|
    norm          d y = |w| / r d p + |y| (1 + sum |p| d p / (n r^2)),  r = sqrt(mean(p^2) + eps)
    rotation      d y = d a + d b for both dims of a pair (a, b), and (|a| + |b|) (1 + |angle|) by that of the angle
    attention     `errors.attention_errors`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyllm.catalogue.attention.errors import TINY, attention_errors, independent, shift
from tinyllm.catalogue.attention.mha_composed import after
from tinyllm.catalogue.attention.mha_formula import attended, merge, split
from tinyllm.catalogue.products.linear import product
from tinyllm.catalogue.rope.rope_rotate import pair_size
from tinyllm.spec.quantized import magnitude
from tinyllm.spec.rope import Rope
from tinyllm.spec.rope_frequencies import inverse_frequencies


def error_sizes(inputs: Mapping[str, Any], attributes: Mapping[str, Any], outputs: Any) -> Any:
    """`OpSpec.scale` of mha: per output."""
    finite = {name: _finite(value) for name, value in inputs.items()}
    beside = {name: value for name, value in finite.items() if name not in ("o_proj", "o_bias")}
    settings = {name: value for name, value in attributes.items() if name not in ("need_weights", "return_kv")}
    layer = attended(np, **beside, **settings)
    heads, kv_heads = layer.q.shape[-3], layer.all_k.shape[-3]
    query = finite["query"]
    key = query if finite.get("key") is None else finite["key"]
    value = key if finite.get("value") is None else finite["value"]
    d_q = _of_heads(finite, attributes, "q", query, heads, layer.positions)
    d_k, d_v = (np.zeros_like(past) if past is not None else None for past in map(finite.get, ("past_k", "past_v")))
    if finite.get("k_proj") is not None:
        d_k = after(np, d_k, _of_heads(finite, attributes, "k", key, kv_heads, layer.positions))
        d_v = after(np, d_v, split(np, _size(finite, value, "v"), kv_heads))
    d_weights, d_y = attention_errors(
        layer.q,
        layer.all_k,
        layer.all_v,
        layer.weights,
        attributes.get("scale"),
        attributes.get("softcap"),
        shift(layer.additive, layer.seen, finite.get("sinks")),
        d_q,
        _padded(d_k, layer.all_k),
        _padded(d_v, layer.all_v),
    )
    d_o = independent(merge(np, d_y), magnitude(finite["o_proj"]).T)
    sizes = [d_o + _size(finite, merge(np, layer.y), "o") + TINY]
    if attributes.get("need_weights"):
        sizes.append(TINY + (d_weights if attributes["need_weights"] == "heads" else np.mean(d_weights, axis=-3)))
    if attributes.get("return_kv"):
        sizes += [d_k, d_v]
    return tuple(sizes) if len(sizes) > 1 else sizes[0]


def _finite(value: Any) -> Any:
    """What NaN and inf stand for is seen by nobody; of a mask -inf stays."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.where(np.isneginf(value), value, np.nan_to_num(value, nan=0, posinf=0))
    return value


def _size(inputs: Mapping[str, Any], x: Any, which: str) -> Any:
    """`|x| |W|^T + |b|`."""
    weight, bias = inputs[f"{which}_proj"], inputs.get(f"{which}_bias")
    size = np.abs(x) @ magnitude(weight).T
    return size if bias is None else size + np.abs(bias)


def _of_heads(
    inputs: Mapping[str, Any], attributes: Mapping[str, Any], which: str, x: Any, heads: int, positions: Any
) -> Any:
    """The errors of queries or keys that are ready for the scores: projected, normed and rotated."""
    rope, norm = attributes.get("rope"), inputs.get(f"{which}_norm")
    numbers = split(np, product(np, x, inputs[f"{which}_proj"], inputs.get(f"{which}_bias")), heads)
    errors = split(np, _size(inputs, x, which), heads)
    late = attributes.get("qk_norm_after_rope", False)
    for step in ("rope", "norm") if late else ("norm", "rope"):
        if step == "norm" and norm is not None:
            root = np.sqrt(np.mean(numbers**2, axis=-1, keepdims=True) + attributes.get("norm_eps", 1e-6))
            of_root = np.mean(np.abs(numbers) * errors, axis=-1, keepdims=True) / root**2
            numbers = numbers / root * norm
            errors = errors / root * np.abs(norm) + np.abs(numbers) * (1 + of_root)
        elif step == "rope" and rope is not None:
            errors = _of_rotation(numbers, errors, rope, positions)
    return errors


def _of_rotation(numbers: Any, errors: Any, rope: Rope, positions: Any) -> Any:
    """The numbers keep their size but for their pair's, so that those before the rotation will do for a norm behind."""
    dims = numbers.shape[-1] if rope.dims is None else rope.dims
    far = np.abs(positions * rope.position_scale)[..., None]
    far = np.expand_dims(far, -3) if np.ndim(positions) > 1 else far
    turns = 1 + far * np.asarray(inverse_frequencies(dims, rope.base, rope.scaling))
    pairs = np.ones_like(turns)
    return pair_size(errors, pairs, rope.traditional, 1.0) + pair_size(numbers, turns, rope.traditional, 1.0)


def _padded(errors: Any, like: Any) -> Any:
    """Without errors at the end, where rows stand that are given as they are."""
    missing = like.shape[-2] - errors.shape[-2]
    return np.pad(errors, [(0, 0)] * (errors.ndim - 2) + [(0, missing), (0, 0)])
