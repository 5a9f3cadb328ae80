"""mha in other ops: a backend that has those runs it by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyllm.catalogue.attention.formula import visible
from tinyllm.spec.rope import Rope
from tinyllm.spec.scheme import QuantWeight


def mha(
    ops: Any,
    query: Any,
    q_proj: Any,
    o_proj: Any,
    *,
    k_proj: Any = None,
    v_proj: Any = None,
    key: Any = None,
    value: Any = None,
    q_bias: Any = None,
    k_bias: Any = None,
    v_bias: Any = None,
    o_bias: Any = None,
    bias_k: Any = None,
    bias_v: Any = None,
    q_norm: Any = None,
    k_norm: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    positions: Any = None,
    mask: Any = None,
    key_mask: Any = None,
    sinks: Any = None,
    num_heads: int,
    num_kv_heads: int | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    rope: Rope | None = None,
    norm_eps: float = 1e-6,
    qk_norm_after_rope: bool = False,
    add_zero_attn: bool = False,
    need_weights: str | None = None,
    return_kv: bool = False,
) -> Any:
    """Output `[*B, L, No]`, then weights, keys and values as far as they are asked for: computed in float32 (float64
    for float64), each rounded once."""
    xp, kv_heads = ops.xp, num_heads if num_kv_heads is None else num_kv_heads
    dtype = ops.dtype(query)
    wide = "float64" if dtype == "float64" else "float32"

    def widened(array: Any) -> Any:
        return array if array is None or isinstance(array, QuantWeight) else ops.astype(array, wide)

    def heads(x: Any, weight: Any, bias: Any, count: int) -> Any:
        """`[*B, S, E]` to `[*B, H, S, D]`."""
        y = ops.linear(widened(x), widened(weight), bias=widened(bias))
        return swapped(xp, xp.reshape(y, (*y.shape[:-1], count, y.shape[-1] // count)))

    def turned(x: Any, norm: Any) -> Any:
        if norm is not None and not qk_norm_after_rope:
            x = ops.rms_norm(x, widened(norm), eps=norm_eps)
        if rope is not None:
            x = _rotated(ops, x, positions, 0 if past_k is None else past_k.shape[-2], rope)
        return ops.rms_norm(x, widened(norm), eps=norm_eps) if norm is not None and qk_norm_after_rope else x

    q = turned(heads(query, q_proj, q_bias, num_heads), q_norm)
    k, v = widened(past_k), widened(past_v)
    if k_proj is not None:
        key = query if key is None else key
        k = after(xp, k, turned(heads(key, k_proj, k_bias, kv_heads), k_norm))
        v = after(xp, v, heads(key if value is None else value, v_proj, v_bias, kv_heads))
    rows = [] if bias_k is None else [(widened(bias_k), widened(bias_v))]
    rows += [(None, None)] if add_zero_attn else []
    if key_mask is not None and key_mask.shape[-1] != k.shape[-2]:  # 1 for all keys, where `gqa` wants each
        key_mask = xp.broadcast_to(key_mask, (*key_mask.shape[:-1], k.shape[-2]))
    masks = {"mask": mask, "key_mask": key_mask, "causal": causal, "window": window}
    if rows:  # every query sees them, whatever the masks say of the others
        masks = _with_columns(ops, masks, q.shape[-2], k.shape[-2], len(rows))
    all_k, all_v = k, v
    for row_k, row_v in rows:
        all_k, all_v = _with_row(ops, all_k, row_k), _with_row(ops, all_v, row_v)
    settings = {name: value for name, value in masks.items() if value is not None}
    settings |= {"sinks": sinks, "scale": scale, "softcap": softcap}
    y = swapped(xp, ops.gqa(q, all_k, all_v, **settings))
    y = ops.linear(xp.reshape(y, (*y.shape[:-2], y.shape[-2] * y.shape[-1])), widened(o_proj), bias=widened(o_bias))
    outputs = [y]
    if need_weights is not None:  # what comes of values that are the unit matrix
        keys = all_k.shape[-2]
        unit = xp.broadcast_to(ops.array(np.eye(keys, dtype=wide)), (*all_k.shape[:-2], keys, keys))
        weights = ops.gqa(q, all_k, unit, **settings)
        outputs.append(weights if need_weights == "heads" else xp.mean(weights, axis=-3))
    outputs += [k, v] if return_kv else []
    rounded = tuple(ops.astype(output, dtype) for output in outputs)
    return rounded if len(rounded) > 1 else rounded[0]


def swapped(xp: Any, x: Any) -> Any:
    """`[..., L, H, D]` to `[..., H, L, D]` and back."""
    axes = len(x.shape)
    return xp.permute_dims(x, (*range(axes - 3), axes - 2, axes - 3, axes - 1))


def after(xp: Any, past: Any, new: Any) -> Any:
    """Past keys or values, None where there are none, and new ones."""
    return new if past is None else xp.concat([past, new], axis=-2)


def _rotated(ops: Any, x: Any, positions: Any, first: int, rope: Rope) -> Any:
    """Turns `[*B, H, L, D]`; positions `[L]` or `[*B, L]`, None: from `first` on."""
    settings: dict[str, Any] = {"dims": rope.dims, "base": rope.base, "scaling": rope.scaling}
    settings |= {"traditional": rope.traditional, "position_scale": rope.position_scale}
    if positions is None:
        return ops.rope(x, offset=first, **settings)
    if len(positions.shape) == 1:
        return ops.rope(x, positions=positions, **settings)
    batch = int(np.prod(x.shape[:-3]))  # the op takes positions for each entry of the first axis
    flat = ops.xp.reshape(x, (batch, *x.shape[-3:]))
    turned = ops.rope(flat, positions=ops.xp.reshape(positions, (batch, positions.shape[-1])), **settings)
    return ops.xp.reshape(turned, x.shape)


def _with_row(ops: Any, x: Any, row: Any) -> Any:
    """One more key or value for every head: a learned one `[Hkv * D]`, or zeros."""
    heads, dim = x.shape[-3], x.shape[-1]
    last = ops.array(np.zeros((1, 1, dim), ops.dtype(x))) if row is None else ops.xp.reshape(row, (heads, 1, dim))
    return ops.xp.concat([x, ops.xp.broadcast_to(last, (*x.shape[:-2], 1, dim))], axis=-2)


def _with_columns(ops: Any, masks: dict[str, Any], length: int, keys: int, count: int) -> dict[str, Any]:
    """The masks with more columns at their end, which every query sees; positions become part of the mask."""
    xp, mask, key_mask = ops.xp, masks["mask"], masks["key_mask"]
    places = visible(np, length, keys, masks["causal"], masks["window"])
    if places is not None:
        seen = np.broadcast_to(places, (length, keys))
        places = ops.array(np.concatenate([seen, np.ones((length, count), bool)], axis=-1))

    def extended(array: Any, fill: Any) -> Any:
        lead = array.shape[:-1]
        wide = xp.broadcast_to(array, (*lead, keys))
        return xp.concat([wide, xp.broadcast_to(ops.array(np.asarray(fill)), (*lead, count))], axis=-1)

    if key_mask is not None:
        key_mask = extended(key_mask, True)
    if mask is None:
        return {"mask": places, "key_mask": key_mask}
    if ops.dtype(mask) == "bool":
        mask = extended(mask, True)
        return {"mask": mask if places is None else xp.logical_and(mask, places), "key_mask": key_mask}
    mask = ops.astype(mask, "float32" if ops.dtype(mask) != "float64" else "float64")
    mask = extended(mask, np.zeros((), ops.dtype(mask)))
    if places is not None:
        mask = xp.where(places, mask, ops.array(np.asarray(-np.inf, ops.dtype(mask))))
    return {"mask": mask, "key_mask": key_mask}
