"""mha: projections, heads, norms, rotation, a cache and attention in one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tinyllm.plugins import QuantWeight, Rope
from tinyllm_torch.attention import attend, masks
from tinyllm_torch.quantized import expand
from tinyllm_torch.rms_norm import rms_norm
from tinyllm_torch.rope import angles, rotate
from tinyllm_torch.widen import widen

Tensor = torch.Tensor
Weight = Tensor | QuantWeight


def mha(
    query: Tensor,
    q_proj: Weight,
    o_proj: Weight,
    *,
    k_proj: Weight | None = None,
    v_proj: Weight | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
    q_bias: Tensor | None = None,
    k_bias: Tensor | None = None,
    v_bias: Tensor | None = None,
    o_bias: Tensor | None = None,
    bias_k: Tensor | None = None,
    bias_v: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    positions: Tensor | None = None,
    mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    sinks: Tensor | None = None,
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
) -> Tensor | tuple[Tensor, ...]:
    """All of it in float32 or float64, each output rounded once."""
    dtype, kv_heads = query.dtype, num_kv_heads or num_heads
    query = widen(query)
    if positions is None and rope is not None:
        past = 0 if past_k is None else past_k.shape[-2]
        positions = torch.arange(past, past + query.shape[-2], device=query.device)

    def ready(x: Tensor, norm: Tensor | None) -> Tensor:
        if norm is not None and not qk_norm_after_rope:
            x = rms_norm(x, widen(norm), eps=norm_eps)
        if rope is not None and positions is not None:
            x = _turn(x, positions, rope)
        return rms_norm(x, widen(norm), eps=norm_eps) if norm is not None and qk_norm_after_rope else x

    q = ready(_heads(_project(query, q_proj, q_bias), num_heads), q_norm)
    k, v = (None if past is None else widen(past) for past in (past_k, past_v))
    if k_proj is not None and v_proj is not None:
        key = query if key is None else widen(key)
        value = key if value is None else widen(value)
        k = _after(k, ready(_heads(_project(key, k_proj, k_bias), kv_heads), k_norm))
        v = _after(v, _heads(_project(value, v_proj, v_bias), kv_heads))
    if k is None or v is None:
        raise TypeError("mha: neither k_proj and v_proj nor past_k and past_v")
    additive, seen = masks(q, k, mask, key_mask, causal=causal, window=window)
    all_k, all_v = k, v
    for row_k, row_v in _always_seen(k, v, bias_k, bias_v, add_zero_attn):
        additive, seen = _with_column(additive, all_k.shape[-2], 0.0), _with_column(seen, all_k.shape[-2], True)
        all_k, all_v = torch.cat((all_k, row_k), -2), torch.cat((all_v, row_v), -2)
    y, weights = attend(q, all_k, all_v, scale=scale, softcap=softcap, additive=additive, seen=seen, sinks=sinks)
    outputs = [_project(y.transpose(-3, -2).flatten(-2), o_proj, o_bias)]
    if need_weights:
        outputs.append(weights if need_weights == "heads" else weights.mean(-3))
    if return_kv:
        outputs += [k, v]
    narrow = tuple(output.to(dtype) for output in outputs)
    return narrow if len(narrow) > 1 else narrow[0]


def _project(x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
    matrix = expand(weight, x.dtype) if isinstance(weight, QuantWeight) else widen(weight)
    return F.linear(x, matrix, None if bias is None else widen(bias))


def _heads(x: Tensor, heads: int) -> Tensor:
    """`[*B, L, H * D]` to `[*B, H, L, D]`."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-3, -2)


def _after(past: Tensor | None, new: Tensor) -> Tensor:
    return new if past is None else torch.cat((past, new), -2)


def _turn(x: Tensor, positions: Tensor, rope: Rope) -> Tensor:
    """Rotates `[*B, H, L, D]`; positions `[L]` or `[*B, L]`."""
    dims = x.shape[-1] if rope.dims is None else rope.dims
    cos, sin = angles(positions, None, dims, rope.base, rope.scaling, rope.position_scale, x.dtype)
    if positions.ndim > 1:
        cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
    return rotate(x, cos, sin, rope.traditional)


def _always_seen(
    k: Tensor, v: Tensor, bias_k: Tensor | None, bias_v: Tensor | None, zero: bool
) -> list[tuple[Tensor, Tensor]]:
    """A learned key and value, then ones of zeros, that every query sees whatever the masks say."""
    rows = []
    if bias_k is not None and bias_v is not None:
        rows.append((_row(bias_k, k), _row(bias_v, v)))
    if zero:
        rows.append((k.new_zeros((*k.shape[:-2], 1, k.shape[-1])), v.new_zeros((*v.shape[:-2], 1, v.shape[-1]))))
    return rows


def _row(bias: Tensor, like: Tensor) -> Tensor:
    """One key or value for each head, `[*B, H, 1, D]`."""
    return widen(bias).view(like.shape[-3], 1, like.shape[-1]).expand(*like.shape[:-2], 1, like.shape[-1])


def _with_column(mask: Tensor | None, keys: int, value: float | bool) -> Tensor | None:
    """One more column, for a key that every query sees."""
    if mask is None:
        return None
    return torch.cat((mask.expand(*mask.shape[:-1], keys), mask.new_full((*mask.shape[:-1], 1), value)), -1)
