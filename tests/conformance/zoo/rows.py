"""Ops on rows and elements, and what goes wrong in them: sums, roots, activations, rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.conformance.zoo.mutant import Mutant, summed_in_float16, wide
from tinyllm.conformance.example import eps

BLOCK = 64


def softmax(x: Any, *, axis: int = -1, mistake: str | None = None) -> Any:
    values = wide(x)
    if mistake == "always the last axis":
        axis = -1
    top = np.max(values, axis=axis, keepdims=True, initial=-np.inf)
    weights = np.exp(values if mistake == "no shift by the maximum" else values - top)
    total = weights.sum(axis=axis, keepdims=True)
    if mistake == "sum of the wrong axis" and x.ndim > 1:
        total = weights.sum(axis=0, keepdims=True)
    if mistake == "sum without a tail" and weights.shape[axis] > BLOCK:
        whole = weights.shape[axis] // BLOCK * BLOCK
        total = np.take(weights, range(whole), axis=axis).sum(axis=axis, keepdims=True)
    if mistake == "last whole vector left out" and weights.shape[axis] and weights.shape[axis] % BLOCK == 0:
        total = np.take(weights, range(weights.shape[axis] - BLOCK), axis=axis).sum(axis=axis, keepdims=True)
    return (weights / total).astype(x.dtype)


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, offset: float = 0.0, mistake: str | None = None) -> Any:
    values = wide(x)
    squares = values * values
    if mistake == "squares in float16" and x.dtype == np.float16:
        squares = (x * x).astype(np.float32)
    mean = squares.mean(axis=-1, keepdims=True) if x.shape[-1] else squares[..., :0]
    if mistake == "variance for the mean square":
        mean = values.var(axis=-1, keepdims=True) if x.shape[-1] else mean
    root = (
        np.sqrt(mean) + eps
        if mistake == "eps outside the root"
        else np.sqrt(mean + (1e-5 if mistake == "eps fixed" else eps))
    )
    if mistake == "root by one Newton step" and root.dtype == np.float32:
        guess = (1 - 3.8e-4) / root.astype(np.float64)
        better = (1 / (guess * (1.5 - 0.5 * (mean + eps) * guess * guess))).astype(np.float32)
        root = np.where(np.isfinite(root), better, root)
    y = values / root * (offset + wide(weight))
    if mistake == "last bit at random" and y.dtype == np.float32:
        y = np.where(np.random.default_rng().random(y.shape) < 0.5, y, np.nextafter(y, np.float32(0)))
    return y if mistake == "float32 for float16" else y.astype(x.dtype)


def silu(x: Any, *, mistake: str | None = None) -> Any:
    values = wide(x)
    sign = 1 if mistake == "wrong sign" else -1
    small = np.exp(sign * values)
    if mistake == "a constant of five digits" and values.dtype == np.float32:
        small = np.exp2(np.float32(-1.4427) * values)
    return np.asarray(values / (1 + small)).astype(x.dtype)


def gelu(x: Any, *, approximate: str = "none", mistake: str | None = None) -> Any:
    values = wide(x)
    if approximate == "tanh" or mistake == "tanh for exact":
        y = 0.5 * values * (1 + np.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))
    else:
        y = values * 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(-values.astype(np.float64) * math.sqrt(0.5))
    return np.asarray(y).astype(x.dtype)


def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    values, rows = wide(x), wide(weight)
    if mistake == "tail of a block dropped":
        whole = x.shape[-1] // BLOCK * BLOCK or x.shape[-1]
        values, rows = values[..., :whole], rows[..., :whole]
    if mistake == "square weight not transposed" and weight.shape[0] == weight.shape[1]:
        rows = rows.T
    y = values @ rows.T
    if mistake == "float16 accumulation" and x.dtype == np.float16:
        y = summed_in_float16(values[..., None, :] * rows)
    if bias is not None and not (mistake == "bias dropped for several rows" and x.ndim > 1 and len(x) > 1):
        y = y + wide(bias)
    y = y.astype(x.dtype)
    if mistake == "last whole tile left out" and y.size and not any(n % 8 for n in (y[..., 0].size, *weight.shape)):
        y[..., -8:] = 0
    if mistake == "one wrong element" and y.size > 1000:
        y.reshape(-1)[777] *= y.dtype.type(1 + 500 * min(eps(str(y.dtype)), eps("float32")))
    return y


def embedding(ids: Any, weight: Any, *, mistake: str | None = None) -> Any:
    if mistake == "rows counted from one":
        ids = np.maximum(ids.astype(np.int64) - 1, 0)
    if mistake == "ids in 8 bits":
        ids = ids.astype(np.uint8)
    return weight[ids]


def merge_heads(x: Any, *, mistake: str | None = None) -> Any:
    if mistake == "heads and dims swapped":
        x = np.swapaxes(x, -1, -2)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def split(x: Any, *, sizes: tuple[int, ...], axis: int = -1, mistake: str | None = None) -> Any:
    if mistake == "parts of one size":
        sizes = (-(-sum(sizes) // len(sizes)),) * len(sizes)
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def split_heads(x: Any, *, heads: tuple[int, ...], mistake: str | None = None) -> Any:
    count = sum(heads)
    folded = x.reshape(*x.shape[:-1], count, x.shape[-1] // count)
    if mistake == "dims before heads":
        folded = np.swapaxes(x.reshape(*x.shape[:-1], x.shape[-1] // count, count), -1, -2)
    return tuple(np.split(folded, np.cumsum(heads)[:-1], axis=-2))


MUTANTS = (
    Mutant("no shift by the maximum", "softmax", "exp overflows from 89 on, in float16 from 12 on.", softmax),
    Mutant("always the last axis", "softmax", "The attribute `axis` is not looked at.", softmax),
    Mutant("sum of the wrong axis", "softmax", "Columns sum to 1 instead of rows.", softmax),
    Mutant(
        "sum without a tail",
        "softmax",
        "The sum is taken in vectors of 64, and the rest of a row is left out of it.",
        softmax,
        "full",
    ),
    Mutant(
        "last whole vector left out",
        "softmax",
        "A loop over vectors of 64 stops one early where nothing is left over.",
        softmax,
        "full",
    ),
    Mutant(
        "eps outside the root",
        "rms_norm",
        "x / (sqrt(mean) + eps): rows of small numbers come out too large.",
        rms_norm,
    ),
    Mutant("eps fixed", "rms_norm", "The kernel has 1e-5 built in, whatever the model says.", rms_norm),
    Mutant("variance for the mean square", "rms_norm", "LayerNorm's formula: the mean is subtracted.", rms_norm),
    Mutant("squares in float16", "rms_norm", "From 256 on a square is more than float16 holds.", rms_norm),
    Mutant("float32 for float16", "rms_norm", "The result is not rounded back to the input's dtype.", rms_norm),
    Mutant(
        "root by one Newton step",
        "rms_norm",
        "From a guess good to 0.04 %: no number is off by 4 ulps, but all are too small by 2.",
        rms_norm,
    ),
    Mutant(
        "last bit at random",
        "rms_norm",
        "Sums in an order that differs from call to call, as by atomic additions.",
        rms_norm,
        caught_by="repeats",
        also_by=("again", "threads"),
    ),
    Mutant("wrong sign", "silu", "x / (1 + exp(x)).", silu),
    Mutant("a constant of five digits", "silu", "exp(x) as 2^(1.4427 x): seven ulps off where the curve bends.", silu),
    Mutant(
        "tanh for exact", "gelu", "The approximation where the exact function was asked for: off by up to 0.0005.", gelu
    ),
    Mutant(
        "float16 accumulation",
        "linear",
        "Partial sums are rounded to float16: the error grows with the length of a row.",
        linear,
    ),
    Mutant(
        "tail of a block dropped", "linear", "Columns past the last whole block of 64 are left out.", linear, "full"
    ),
    Mutant(
        "last whole tile left out",
        "linear",
        "The path for rows, columns and outputs in whole eights stops one tile early.",
        linear,
        "full",
    ),
    Mutant(
        "square weight not transposed",
        "linear",
        "The layout is guessed from the shape, and a square weight fits both.",
        linear,
        "full",
    ),
    Mutant(
        "bias dropped for several rows",
        "linear",
        "The path for prefill forgets the bias, that for decoding does not.",
        linear,
    ),
    Mutant(
        "one wrong element",
        "linear",
        "One number among thousands is off, by hundreds of ulps: a mean hides it.",
        linear,
        "full",
    ),
    Mutant("rows counted from one", "embedding", "The table is taken to begin at id 1.", embedding),
    Mutant("ids in 8 bits", "embedding", "Ids past 255 wrap around.", embedding, "full"),
    Mutant("parts of one size", "split", "Keys and values are taken to be as wide as queries.", split),
    Mutant(
        "dims before heads",
        "split_heads",
        "The last axis is read as [D, H]: each head gets a number of every other.",
        split_heads,
    ),
    Mutant("heads and dims swapped", "merge_heads", "The axes are folded in the wrong order.", merge_heads),
)
