"""Gates, caps and factors, norms with an offset or a mean, and what goes wrong in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, wide


def _sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def all_reduce(x: Any, *, group: Any = None, mistake: str | None = None) -> Any:
    if group is None or mistake == "its own part alone":
        return x
    if mistake == "sums in 16 bits":
        return group.sum(x)
    total = group.sum(wide(x))
    if mistake == "the mean":
        total = total / group.ranks
    return (total - wide(x) if mistake == "without its own part" else total).astype(x.dtype)


def sigmoid(x: Any, *, mistake: str | None = None) -> Any:
    values = wide(x)
    y = np.clip(values / 6 + 0.5, 0, 1) if mistake == "a straight line" else _sigmoid(values)
    return np.asarray(y).astype(x.dtype)


def swiglu(
    gate: Any,
    up: Any,
    *,
    limit: float | None = None,
    alpha: float = 1.0,
    up_offset: float = 0.0,
    mistake: str | None = None,
) -> Any:
    g, u = (wide(up), wide(gate)) if mistake == "halves swapped" else (wide(gate), wide(up))
    with np.errstate(all="ignore"):
        if limit is not None and mistake == "NaN becomes the limit":
            g, u = np.fmin(g, limit), np.fmax(np.fmin(u, limit), -limit)
        elif limit is not None:
            g = np.clip(g, -limit, limit) if mistake == "gates limited from below" else np.minimum(g, limit)
            u = np.minimum(u, limit) if mistake == "ups limited from above alone" else np.clip(u, -limit, limit)
        if mistake == "alpha outside":
            y = alpha * g * _sigmoid(alpha * g)
        else:
            y = g * _sigmoid(g if mistake == "alpha of 1" else alpha * g)
        y = y * u + up_offset if mistake == "offset after the product" else y * (u + up_offset)
    return y.astype(gate.dtype)


def geglu(gate: Any, up: Any, *, approximate: str = "tanh", mistake: str | None = None) -> Any:
    g = wide(gate)
    with np.errstate(all="ignore"):
        if approximate == "tanh" and mistake != "exact for tanh":
            y = 0.5 * g * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g * g * g)))
        else:
            erfc = np.vectorize(math.erfc, otypes=[np.float64])
            y = g * (0.5 * erfc(-g.astype(np.float64) * math.sqrt(0.5))).astype(g.dtype)
        return (y * wide(up)).astype(gate.dtype)


def scale(x: Any, *, factor: float, mistake: str | None = None) -> Any:
    if mistake == "a factor in 16 bits":
        factor = float(np.float16(factor))
    with np.errstate(all="ignore"):
        return np.asarray(wide(x) * factor).astype(x.dtype)


def softcap(x: Any, *, cap: float, mistake: str | None = None) -> Any:
    values = wide(x)
    if mistake == "cut off":
        return np.asarray(np.clip(values, -cap, cap)).astype(x.dtype)
    y = np.tanh(values / cap)
    return np.asarray(y if mistake == "not scaled back" else cap * y).astype(x.dtype)


def mul(x: Any, y: Any, *, mistake: str | None = None) -> Any:
    if mistake == "the first row's number" and y.shape[-1] != x.shape[-1] and y.size:
        y = np.broadcast_to(y[..., :1, :], y.shape)
    with np.errstate(all="ignore"):
        return x * y


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, offset: float = 0.0, mistake: str | None = None) -> Any:
    if not x.shape[-1]:
        return x
    values, factor = wide(x), wide(weight)
    if offset:
        factor = 1 + factor if mistake == "an offset of 1" else offset + factor
    if mistake == "an offset in 16 bits":
        factor = wide(weight + weight.dtype.type(offset))
    with np.errstate(all="ignore"):
        y = values / np.sqrt(np.mean(values * values, axis=-1, keepdims=True) + eps)
        return (y * factor).astype(x.dtype)


def layer_norm(x: Any, weight: Any, *, bias: Any = None, eps: float = 1e-5, mistake: str | None = None) -> Any:
    if not x.shape[-1]:
        return x
    values, count = wide(x), x.shape[-1]
    with np.errstate(all="ignore"):
        centred = values - np.mean(values, axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        if mistake == "mean of squares less square of the mean":
            variance = np.mean(values * values, axis=-1, keepdims=True) - np.mean(values, axis=-1, keepdims=True) ** 2
        if mistake == "one less than the count" and count > 1:
            variance = variance * count / (count - 1)
        y = (values if mistake == "the mean left in" else centred) / np.sqrt(variance + eps)
        if bias is not None and mistake == "bias before the weight":
            return ((y + wide(bias)) * wide(weight)).astype(x.dtype)
        y = y * wide(weight)
        return (y if bias is None else y + wide(bias)).astype(x.dtype)


MUTANTS = (
    Mutant("its own part alone", "all_reduce", "The group is not looked at.", all_reduce),
    Mutant("the mean", "all_reduce", "As gradients are reduced.", all_reduce),
    Mutant("without its own part", "all_reduce", "What the others sent, and no more.", all_reduce),
    Mutant("sums in 16 bits", "all_reduce", "Each sum of two is rounded.", all_reduce),
    Mutant("a straight line", "sigmoid", "The hard sigmoid of small processors.", sigmoid),
    Mutant("halves swapped", "swiglu", "silu of `up` instead of `gate`.", swiglu),
    Mutant("NaN becomes the limit", "swiglu", "fmin gives the number that is not NaN, here the limit.", swiglu),
    Mutant("gates limited from below", "swiglu", "Both arguments are held within the limit on both sides.", swiglu),
    Mutant("ups limited from above alone", "swiglu", "Both arguments are limited as gates are.", swiglu),
    Mutant("alpha of 1", "swiglu", "The plain silu, whatever the model says.", swiglu),
    Mutant("alpha outside", "swiglu", "silu(alpha g): the factor is not in the sigmoid alone.", swiglu),
    Mutant("offset after the product", "swiglu", "silu(g) u + 1 for silu(g) (u + 1).", swiglu),
    Mutant("exact for tanh", "geglu", "The exact function where the formula was asked for: off by 0.0005.", geglu),
    Mutant("a factor in 16 bits", "scale", "The number is rounded to float16 before it multiplies.", scale),
    Mutant("cut off", "softcap", "A limit in place of a curve that bends towards it.", softcap),
    Mutant("not scaled back", "softcap", "tanh(x / cap) alone.", softcap),
    Mutant("the first row's number", "mul", "A number a row is read once for all rows.", mul),
    Mutant("an offset of 1", "rms_norm", "The kernel has Gemma's offset built in.", rms_norm, "full"),
    Mutant("an offset in 16 bits", "rms_norm", "The sum with the weight is rounded to the weight's dtype.", rms_norm),
    Mutant("the mean left in", "layer_norm", "The variance is right, but the mean is not subtracted.", layer_norm),
    Mutant("one less than the count", "layer_norm", "The variance of a sample, not that of the row.", layer_norm),
    Mutant("bias before the weight", "layer_norm", "(y + bias) * weight.", layer_norm),
    Mutant(
        "mean of squares less square of the mean",
        "layer_norm",
        "In one pass: far from 0 the two cancel, and leave no digit.",
        layer_norm,
    ),
)
