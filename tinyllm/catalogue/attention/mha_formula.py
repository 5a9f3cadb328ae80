"""The formula of `mha`, up to the output projection."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyllm.catalogue.attention.formula import all_masks, attend_groups
from tinyllm.catalogue.attention.mha_composed import after, swapped
from tinyllm.catalogue.products.linear import product
from tinyllm.catalogue.rope.rope_rotate import rotate
from tinyllm.catalogue.rope.settings import cos_sin
from tinyllm.catalogue.rows.rms_norm import normed
from tinyllm.spec.rope import Rope


class Attended(NamedTuple):
    """What the layer computes on its way.

    q: heads `[*B, H, L, D]`, ready for the scores. k, v: those for a next call. all_k, all_v: all that are attended to.
    y, weights: `[*B, H, L, Dv]` and `[*B, H, L, S]`. additive, seen: what the masks add, and which keys they leave.
    """

    q: Any
    k: Any
    v: Any
    all_k: Any
    all_v: Any
    y: Any
    weights: Any
    positions: Any
    additive: Any
    seen: Any


def attended(
    xp: Any,
    query: Any,
    q_proj: Any,
    *,
    k_proj: Any = None,
    v_proj: Any = None,
    key: Any = None,
    value: Any = None,
    q_bias: Any = None,
    k_bias: Any = None,
    v_bias: Any = None,
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
) -> Attended:
    """The layer up to its output projection; the arguments are those of the op."""
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    length = query.shape[-2]
    if positions is None:
        first = 0 if past_k is None else past_k.shape[-2]
        positions = xp.arange(first, first + length)

    def ready(x: Any, norm: Any) -> Any:
        if norm is not None and not qk_norm_after_rope:
            x = normed(xp, x, norm, eps=norm_eps)
        x = turned(xp, x, positions, rope)
        return normed(xp, x, norm, eps=norm_eps) if norm is not None and qk_norm_after_rope else x

    q = ready(split(xp, product(xp, query, q_proj, q_bias), num_heads), q_norm)
    k, v = past_k, past_v
    if k_proj is not None:
        key = query if key is None else key
        value = key if value is None else value
        k = after(xp, k, ready(split(xp, product(xp, key, k_proj, k_bias), kv_heads), k_norm))
        v = after(xp, v, split(xp, product(xp, value, v_proj, v_bias), kv_heads))
    additive, seen = all_masks(xp, q, k, mask=mask, key_mask=key_mask, causal=causal, window=window)
    all_k, all_v = k, v
    for row_k, row_v in extra_rows(xp, k, v, bias_k, bias_v, add_zero_attn):
        additive, seen = _always(xp, additive, all_k.shape[-2], 0), _always(xp, seen, all_k.shape[-2], 1)
        all_k, all_v = xp.concat([all_k, row_k], axis=-2), xp.concat([all_v, row_v], axis=-2)
    y, weights = attend_groups(
        xp, q, all_k, all_v, scale=scale, softcap=softcap, additive=additive, seen=seen, sinks=sinks
    )
    return Attended(q, k, v, all_k, all_v, y, weights, positions, additive, seen)


def split(xp: Any, x: Any, heads: int) -> Any:
    """`[*B, L, H D]` to `[*B, H, L, D]`."""
    return swapped(xp, xp.reshape(x, (*x.shape[:-1], heads, x.shape[-1] // heads)))


def merge(xp: Any, x: Any) -> Any:
    """`[*B, H, L, D]` to `[*B, L, H D]`."""
    x = swapped(xp, x)
    return xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def turned(xp: Any, x: Any, positions: Any, rope: Rope | None) -> Any:
    """Rotates `[*B, H, L, D]`; positions `[L]` or `[*B, L]`."""
    if rope is None:
        return x
    dims = x.shape[-1] if rope.dims is None else rope.dims
    cos, sin = cos_sin(xp, positions, None, dims, rope.base, rope.scaling, rope.position_scale, x.dtype)
    if positions.ndim > 1:
        cos, sin = xp.expand_dims(cos, axis=-3), xp.expand_dims(sin, axis=-3)
    return rotate(xp, x, cos, sin, rope.traditional)


def extra_rows(xp: Any, k: Any, v: Any, bias_k: Any, bias_v: Any, zero: bool) -> list[tuple[Any, Any]]:
    """The rows that every query sees, whatever the masks say: a learned one, then one of zeros."""
    rows = []
    if bias_k is not None:
        rows.append(
            tuple(_row(xp, xp.reshape(b, (a.shape[-3], 1, a.shape[-1])), a) for a, b in ((k, bias_k), (v, bias_v)))
        )
    if zero:
        rows.append(tuple(_row(xp, xp.zeros((1, 1), dtype=a.dtype), a) for a in (k, v)))
    return rows


def _row(xp: Any, row: Any, like: Any) -> Any:
    return xp.broadcast_to(row, (*like.shape[:-2], 1, like.shape[-1]))


def _always(xp: Any, mask: Any, keys: int, value: int) -> Any:
    """One more column, which every query sees."""
    if mask is None:
        return None
    column = xp.astype(xp.broadcast_to(xp.asarray(value), (*mask.shape[:-1], 1)), mask.dtype)
    return xp.concat([xp.broadcast_to(mask, (*mask.shape[:-1], keys)), column], axis=-1)
