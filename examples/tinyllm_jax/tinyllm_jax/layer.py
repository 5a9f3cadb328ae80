"""What a layer is made of besides attention. The formulas are those of docs/write-a-backend.md, on jax.numpy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from tinyllm_jax.jitted import jitted


def widen(x: Any) -> Any:
    """16-bit numbers as float32, float32 and float64 as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jitted("axis")
def softmax(x: Any, *, axis: int = -1) -> Any:
    """Shifted by the maximum, so that it never overflows; `initial` is for rows of nothing."""
    wide = widen(x)
    weights = jnp.exp(wide - wide.max(axis=axis, keepdims=True, initial=-jnp.inf))
    return (weights / weights.sum(axis=axis, keepdims=True)).astype(x.dtype)


@jitted()
def linear(x: Any, weight: Any, *, bias: Any = None) -> Any:
    """y = x W^T + b."""
    wide = widen(x)
    y = wide @ weight.astype(wide.dtype).T
    return (y if bias is None else y + widen(bias)).astype(x.dtype)


@jitted()
def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6) -> Any:
    """Each row divided by its root mean square; eps is inside the root."""
    wide = widen(x)
    mean = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide / jnp.sqrt(mean + eps) * widen(weight)).astype(x.dtype)


@jitted()
def silu(x: Any) -> Any:
    """x times its own sigmoid."""
    wide = widen(x)
    return (wide / (1 + jnp.exp(-wide))).astype(x.dtype)


@jitted()
def swiglu(gate: Any, up: Any) -> Any:
    """The gate decides how much of `up` passes; rounded once, at the end."""
    return (silu(widen(gate)) * widen(up)).astype(gate.dtype)
