"""mha: projections, norms, rotation, a cache and attention in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from tinyllm.plugins import QuantWeight
from tinyllm_mlx.arrays import widen
from tinyllm_mlx.attention import attend, clean, grouped_mask, position_bias
from tinyllm_mlx.linear import product
from tinyllm_mlx.quantized import quantized_linear
from tinyllm_mlx.rms_norm import rms_norm
from tinyllm_mlx.rope import rope_angles, rope_rotate

if TYPE_CHECKING:
    from tinyllm.plugins import Rope

Weight = mx.array | QuantWeight


def mha(
    query: mx.array,
    q_proj: Weight,
    o_proj: Weight,
    *,
    k_proj: Weight | None = None,
    v_proj: Weight | None = None,
    key: mx.array | None = None,
    value: mx.array | None = None,
    q_bias: mx.array | None = None,
    k_bias: mx.array | None = None,
    v_bias: mx.array | None = None,
    o_bias: mx.array | None = None,
    bias_k: mx.array | None = None,
    bias_v: mx.array | None = None,
    q_norm: mx.array | None = None,
    k_norm: mx.array | None = None,
    past_k: mx.array | None = None,
    past_v: mx.array | None = None,
    positions: mx.array | None = None,
    mask: mx.array | None = None,
    key_mask: mx.array | None = None,
    sinks: mx.array | None = None,
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
) -> mx.array | tuple[mx.array, ...]:
    """All in float32, rounded once at the end."""
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    groups = num_heads // kv_heads
    key = query if key is None else key
    value = key if value is None else value
    if positions is None:
        past = 0 if past_k is None else past_k.shape[-2]
        positions = mx.arange(past, past + query.shape[-2])

    def turn(x: mx.array, norm: mx.array | None) -> mx.array:
        if norm is not None and not qk_norm_after_rope:
            x = rms_norm(x, widen(norm), eps=norm_eps)
        if rope is not None:
            x = _rotated(x, positions, rope)
        if norm is not None and qk_norm_after_rope:
            x = rms_norm(x, widen(norm), eps=norm_eps)
        return x

    q = turn(_heads(query, q_proj, q_bias, num_heads), q_norm)
    k = _joined(past_k, None if k_proj is None else turn(_heads(key, k_proj, k_bias, kv_heads), k_norm))
    v = _joined(past_v, None if v_proj is None else _heads(value, v_proj, v_bias, kv_heads))
    kv = (k.astype(query.dtype), v.astype(query.dtype))

    length, keys = q.shape[-2], k.shape[-2]
    bias, places = grouped_mask(mask, key_mask, kv_heads), position_bias(length, keys, causal, window)
    bias = places if bias is None else bias if places is None else bias + places
    if bias is not None and 0 not in (length, keys):
        k, v = clean(k, v, mx.broadcast_to(bias, (*bias.shape[:-1], keys)))
    extra = 0
    if bias_k is not None and bias_v is not None:
        k, v, extra = _appended(k, bias_k), _appended(v, bias_v), 1
    if add_zero_attn:
        k, v, extra = _appended(k, None), _appended(v, None), extra + 1
    if bias is not None and extra:  # always visible
        bias = mx.broadcast_to(bias, (*bias.shape[:-1], keys))
        bias = mx.concatenate([bias, mx.zeros((*bias.shape[:-1], extra))], axis=-1)

    q = q.reshape(*q.shape[:-3], kv_heads, groups, *q.shape[-2:])
    sinks = None if sinks is None else widen(sinks).reshape(kv_heads, groups, 1, 1)
    y, weights = attend(
        q, k, v, scale=scale, softcap=softcap, bias=bias, sinks=sinks, want_weights=need_weights is not None
    )
    y = y.reshape(*y.shape[:-4], num_heads, length, v.shape[-1]).swapaxes(-2, -3)
    y = _project(y.reshape(*y.shape[:-2], num_heads * v.shape[-1]), o_proj, o_bias).astype(query.dtype)
    results = [y]
    if weights is not None:
        weights = weights.reshape(*weights.shape[:-4], num_heads, *weights.shape[-2:])
        results.append((mx.mean(weights, axis=-3) if need_weights == "mean" else weights).astype(query.dtype))
    if return_kv:
        results += kv
    return results[0] if len(results) == 1 else tuple(results)


def _project(x: mx.array, weight: Weight, bias: mx.array | None) -> mx.array:
    """A linear map in float32."""
    bias = None if bias is None else widen(bias)
    return (
        quantized_linear(x, weight, bias=bias)
        if isinstance(weight, QuantWeight)
        else product(widen(x), widen(weight), bias)
    )


def _heads(x: mx.array, weight: Weight, bias: mx.array | None, heads: int) -> mx.array:
    """`[*B, L, E]` to `[*B, H, L, D]`."""
    y = _project(widen(x), weight, bias)
    return y.reshape(*y.shape[:-1], heads, y.shape[-1] // heads).swapaxes(-2, -3)


def _rotated(x: mx.array, positions: mx.array, rope: Rope) -> mx.array:
    """Turns `[*B, H, L, D]`; positions `[L]` or `[*B, L]`."""
    dims = x.shape[-1] if rope.dims is None else rope.dims
    cos, sin = rope_angles(
        positions, dims=dims, base=rope.base, scaling=rope.scaling, position_scale=rope.position_scale
    )
    if positions.ndim > 1:
        cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    return rope_rotate(x, cos, sin, traditional=rope.traditional)


def _joined(past: mx.array | None, new: mx.array | None) -> mx.array:
    """What the cache holds, and what is new."""
    parts = [widen(part) for part in (past, new) if part is not None]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-2)


def _appended(x: mx.array, row: mx.array | None) -> mx.array:
    """One more key or value for every head: a learnt one, or zeros."""
    heads, dim = x.shape[-3], x.shape[-1]
    last = mx.zeros((heads, 1, dim)) if row is None else widen(row).reshape(heads, 1, dim)
    return mx.concatenate([x, mx.broadcast_to(last, (*x.shape[:-3], heads, 1, dim))], axis=-2)
