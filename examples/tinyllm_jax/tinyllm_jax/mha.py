"""A whole attention layer."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from tinyllm.plugins import QuantWeight
from tinyllm_jax.attention import attend_groups, split_mask, visible
from tinyllm_jax.jitted import jitted
from tinyllm_jax.layer import linear, rms_norm, widen
from tinyllm_jax.quantized import quantized_linear
from tinyllm_jax.rope import angles, rope_rotate

STATIC = (
    "num_heads",
    "num_kv_heads",
    "causal",
    "rope",
    "qk_norm_after_rope",
    "add_zero_attn",
    "need_weights",
    "return_kv",
)


@jitted(*STATIC)
def mha(
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
    rope: Any = None,
    norm_eps: float = 1e-6,
    qk_norm_after_rope: bool = False,
    add_zero_attn: bool = False,
    need_weights: str | None = None,
    return_kv: bool = False,
) -> Any:
    """Project, cut into heads, norm and turn, put the past in front, attend, put together, project."""
    length = query.shape[-2]
    if positions is None:
        positions = jnp.arange(length) + (0 if past_k is None else past_k.shape[-2])

    def projected(x: Any, weight: Any, bias: Any, heads: int) -> Any:
        y = project(widen(x), weight, bias)
        return y.reshape(*y.shape[:-1], heads, y.shape[-1] // heads).swapaxes(-2, -3)  # [*B, H, L, D]

    def ready(x: Any, norm: Any) -> Any:
        if norm is not None and not qk_norm_after_rope:
            x = rms_norm(x, norm, eps=norm_eps)
        x = turn(x, positions, rope)
        return rms_norm(x, norm, eps=norm_eps) if norm is not None and qk_norm_after_rope else x

    def after(past: Any, new: Any) -> Any:
        return new if past is None else jnp.concat([widen(past), new], axis=-2)

    q = ready(projected(query, q_proj, q_bias, num_heads), q_norm)
    k, v = past_k, past_v
    if k_proj is not None:
        key = query if key is None else key
        value = key if value is None else value
        k = after(past_k, ready(projected(key, k_proj, k_bias, num_kv_heads or num_heads), k_norm))
        v = after(past_v, projected(value, v_proj, v_bias, num_kv_heads or num_heads))
    seen, added = split_mask(mask, visible(length, k.shape[-2], causal, window))
    if key_mask is not None:
        seen = seen & key_mask[..., None, None, :]
    all_k, all_v = k, v
    for row_k, row_v in [(bias_k, bias_v)] * (bias_k is not None) + [(None, None)] * add_zero_attn:
        seen = one_more(seen, all_k.shape[-2], True)  # a key that every query sees, whatever the masks say
        added = None if added is None else one_more(added, all_k.shape[-2], 0)
        all_k, all_v = with_row(all_k, row_k), with_row(all_v, row_v)
    y, weights = attend_groups(q, all_k, all_v, seen, added, sinks, scale, softcap)
    y = y.swapaxes(-2, -3)
    outputs = [project(y.reshape(*y.shape[:-2], y.shape[-2] * y.shape[-1]), o_proj, o_bias)]
    if need_weights:
        outputs.append(weights if need_weights == "heads" else weights.mean(axis=-3))
    if return_kv:
        outputs += [k, v]
    outputs = [a.astype(query.dtype) for a in outputs]
    return tuple(outputs) if len(outputs) > 1 else outputs[0]


def project(x: Any, weight: Any, bias: Any) -> Any:
    return (quantized_linear if isinstance(weight, QuantWeight) else linear)(x, weight, bias=bias)


def turn(x: Any, positions: Any, rope: Any) -> Any:
    """Queries or keys [*B, H, L, D] at positions [L] or [*B, L]."""
    if rope is None:
        return x
    cos, sin = angles(positions, None, rope.dims or x.shape[-1], rope.base, rope.scaling, rope.position_scale)
    if positions.ndim > 1:
        cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    return rope_rotate(x, cos, sin, traditional=rope.traditional)


def one_more(mask: Any, keys: int, value: Any) -> Any:
    """A mask with one more column."""
    mask = jnp.broadcast_to(mask, (*mask.shape[:-1], keys))
    return jnp.concat([mask, jnp.full((*mask.shape[:-1], 1), value, mask.dtype)], axis=-1)


def with_row(x: Any, row: Any) -> Any:
    """Keys or values [*B, H, S, D] with one more: [H * D] of it, or zeros."""
    row = jnp.zeros((), x.dtype) if row is None else row.reshape(x.shape[-3], 1, x.shape[-1])
    return jnp.concat([widen(x), jnp.broadcast_to(widen(row), (*x.shape[:-2], 1, x.shape[-1]))], axis=-2)
