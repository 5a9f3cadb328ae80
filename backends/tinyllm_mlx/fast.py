"""Kernels on MLX's ready-made operators (`mx.fast`), beside those that are written from array calls."""

from __future__ import annotations

import mlx.core as mx

from tinyllm.plugins import RopeScaling, inverse_frequencies


def softmax(x: mx.array, *, axis: int = -1) -> mx.array:
    """The weights `[*B]` along an axis by `mx.softmax`, accumulated in float32."""
    return mx.softmax(x, axis=axis, precise=True)


def rms_norm(x: mx.array, weight: mx.array, *, eps: float = 1e-6) -> mx.array:
    """`x / sqrt(mean(x^2) + eps) * weight`, `[*B, D]`, by `mx.fast.rms_norm`."""
    return mx.fast.rms_norm(x, weight, eps)


def rope(
    x: mx.array,
    *,
    offset: mx.array | None = None,
    inv_freq: mx.array | None = None,
    dims: int | None = None,
    base: float = 10000.0,
    scaling: RopeScaling | None = None,
    traditional: bool = False,
    position_scale: float = 1.0,
) -> mx.array:
    """x `[*B, L, D]` rotated by `mx.fast.rope`, whose `freqs` are one over `inv_freq`."""
    if inv_freq is None:
        dims = x.shape[-1] if dims is None else dims
        inv_freq = mx.array(inverse_frequencies(dims, base, scaling).tolist())
    periods = 1 / inv_freq.astype(mx.float32)
    flat = x.reshape(1, -1, *x.shape[-2:])
    dims = 2 * periods.shape[0]
    turned = mx.fast.rope(
        flat,
        dims,
        traditional=traditional,
        base=None,
        scale=position_scale,
        offset=0 if offset is None else offset,
        freqs=periods,
    )
    return turned.reshape(x.shape)


def sdpa(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    sinks: mx.array | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> mx.array:
    """The attention `[*B, L, Dv]` by `mx.fast.scaled_dot_product_attention`, which also takes fewer kv heads than
    heads."""
    lead = (1,) if q.ndim == 3 else ()
    y = mx.fast.scaled_dot_product_attention(
        q.reshape(*lead, *q.shape),
        k.reshape(*lead, *k.shape),
        v.reshape(*lead, *v.shape),
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        mask="causal" if causal else None,
        sinks=sinks,
    )
    return y.reshape(*q.shape[:-1], v.shape[-1])


gqa = sdpa
"""The same operator groups query heads by itself."""
