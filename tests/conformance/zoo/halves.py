"""Steps done in 16 bits where the result alone may have them: all are a little off, and none by much."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tests.conformance.zoo.flash import Flash, flash_mutant
from tests.conformance.zoo.mutant import Mutant, wide
from tests.conformance.zoo.quantized import SCHEMES, dequantize
from tinyllm.spec.dtypes import numpy_dtype
from tinyllm.spec.scheme import QuantWeight


def through(array: Any, dtype: Any) -> Any:
    """Rounded to a dtype on the way."""
    with np.errstate(all="ignore"):
        return array.astype(dtype).astype(array.dtype)


def linear(x: Any, weight: Any, *, bias: Any = None, mistake: str | None = None) -> Any:
    values, rows = wide(x), wide(weight)
    if mistake == "weights in bfloat16" and x.dtype == np.float32:
        rows = through(rows, numpy_dtype("bfloat16"))
    if mistake == "products of 10 bits" and x.dtype == np.float32:
        values, rows = ((a.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for a in (values, rows))
    if mistake == "workspace of 16 bits" and x.shape[-1] > 64:
        y: Any = np.zeros((*x.shape[:-1], len(rows)), values.dtype)
        for start in range(0, x.shape[-1], 64):
            y = through(y + values[..., start : start + 64] @ rows[:, start : start + 64].T, x.dtype)
    else:
        y = values @ rows.T
    if mistake == "bias added to what is rounded":
        y = through(y, x.dtype)
    return (y if bias is None else y + wide(bias)).astype(x.dtype)


def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, mistake: str | None = None) -> Any:
    values = wide(x)
    mean = np.mean(values * values, axis=-1, keepdims=True) if x.shape[-1] else values
    inverse = 1 / np.sqrt(mean + eps)
    if mistake == "one over the root in 16 bits":
        inverse = through(inverse, x.dtype)
    if mistake == "weight rounded with one added":
        weight = ((weight - weight.dtype.type(1)) + weight.dtype.type(1)).astype(weight.dtype)
    return (values * inverse * wide(weight)).astype(x.dtype)


def softmax(x: Any, *, axis: int = -1, mistake: str | None = None) -> Any:
    values = wide(x)
    shifted = values - np.max(values, axis=axis, keepdims=True, initial=-np.inf)
    weights = np.exp(shifted)
    if mistake == "exponentials kept in 16 bits":
        weights = through(weights, x.dtype)
    total = weights.sum(axis=axis, keepdims=True)
    if mistake == "one over the sum in 16 bits":
        return (weights * through(1 / total, x.dtype)).astype(x.dtype)
    return (weights / total).astype(x.dtype)


def rope_rotate(x: Any, cos: Any, sin: Any, *, traditional: bool = False, mistake: str | None = None) -> Any:
    half, y = cos.shape[-1], x.copy()
    places = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if traditional else (slice(half), slice(half, 2 * half))
    first, second = (wide(x[..., place]) for place in places)
    if mistake == "table in 16 bits":
        cos, sin = through(cos, x.dtype), through(sin, x.dtype)
    products = [first * cos, second * sin, first * sin, second * cos]
    if mistake == "products in 16 bits":
        products = [through(product, x.dtype) for product in products]
    y[..., places[0]] = (products[0] - products[1]).astype(x.dtype)
    y[..., places[1]] = (products[2] + products[3]).astype(x.dtype)
    return y


def dequantized(weight: QuantWeight, *, mistake: str | None = None) -> Any:
    if mistake == "scale and bias as their own dtype" and "biases" in weight.arrays:
        short = {n: a.astype(numpy_dtype("bfloat16")) for n, a in weight.arrays.items() if n in ("scales", "biases")}
        weight = weight.with_arrays({**weight.arrays, **short})
    return dequantize(weight)


def swiglu(gate: Any, up: Any, *, mistake: str | None = None) -> Any:
    if mistake == "gate rounded before the product":
        return torch.nn.functional.silu(gate) * up
    wider = torch.promote_types(gate.dtype, torch.float32)
    return (torch.nn.functional.silu(gate.to(wider)) * up.to(wider)).to(gate.dtype)


def gelu(x: Any, *, approximate: str = "none", mistake: str | None = None) -> Any:
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    inner = values
    if mistake == "cube in 16 bits":
        inner = (x * x * x).to(values.dtype)
    elif approximate == "tanh":
        inner = values * values * values
    if approximate == "tanh":
        inner = torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * inner))
        return (0.5 * values * (1 + inner)).to(x.dtype)
    return (0.5 * values * torch.special.erfc(-values * math.sqrt(0.5))).to(x.dtype)


def silu(x: Any, *, mistake: str | None = None) -> Any:
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    half = torch.sigmoid(values)
    if mistake == "sigmoid in 16 bits":
        half = half.to(x.dtype).to(values.dtype)
    return (values * half).to(x.dtype)


def in_16_bits(array: Any, dtype: Any) -> Any:
    """Scores or weights as the queries' dtype has them."""
    return through(array, dtype)


def scaled_in_bfloat16(q: Any, k: Any, factor: float) -> Any:
    """Queries times the scale, in bfloat16, whatever the inputs are."""
    return through(q * q.dtype.type(factor), numpy_dtype("bfloat16")), k, 1


MUTANTS = (
    Mutant("weights in bfloat16", "linear", "float32 weights lose 16 bits, as if a model were loaded so.", linear),
    Mutant(
        "products of 10 bits",
        "linear",
        "TF32 without being asked: float32 factors keep 10 bits on their way into the matrix unit.",
        linear,
    ),
    Mutant(
        "workspace of 16 bits",
        "linear",
        "Partial sums of 64 columns meet in memory, and the memory has the output's dtype.",
        linear,
    ),
    Mutant(
        "bias added to what is rounded", "linear", "A product and then a sum, each of which rounds its result.", linear
    ),
    Mutant("one over the root in 16 bits", "rms_norm", "A factor of the whole row, rounded first.", rms_norm),
    Mutant(
        "weight rounded with one added",
        "rms_norm",
        "Gemma's weights less 1 are made from others and back again, in 16 bits.",
        rms_norm,
    ),
    Mutant("exponentials kept in 16 bits", "softmax", "They are written over the scores, in the same memory.", softmax),
    Mutant("one over the sum in 16 bits", "softmax", "A factor of the whole row, rounded first.", softmax),
    Mutant("table in 16 bits", "rope_rotate", "cos and sin in the activations' dtype.", rope_rotate),
    Mutant("products in 16 bits", "rope_rotate", "x cos and x sin are rounded before they are added.", rope_rotate),
    replace(
        Mutant(
            "scale and bias as their own dtype",
            "dequantize",
            "Kept in bfloat16 beside the numbers, whatever the weight has.",
            dequantized,
        ),
        schemes=SCHEMES,
    ),
    Mutant(
        "gate rounded before the product",
        "swiglu",
        "silu(gate) * up by two calls of a library.",
        swiglu,
        library="torch",
    ),
    Mutant(
        "cube in 16 bits",
        "gelu",
        "x * x * x in the input's dtype: past 40 float16 is inf.",
        gelu,
        library="torch",
        tier="full",
    ),
    Mutant("sigmoid in 16 bits", "silu", "x * sigmoid(x), the second rounded.", silu, library="torch"),
    flash_mutant(
        "scores in 16 bits",
        "sdpa",
        "Scores are written to memory between the two products, in the dtype of the queries.",
        Flash(scores=in_16_bits),
    ),
    flash_mutant(
        "weights in 16 bits",
        "gqa",
        "The matrix unit takes 16 bits, so weights are rounded before they meet the values.",
        Flash(weights=in_16_bits),
    ),
    flash_mutant(
        "scaled queries in bfloat16",
        "paged_attention",
        "Scale folded into the queries, which go to the matrix unit in bfloat16.",
        Flash(inputs=scaled_in_bfloat16),
    ),
    flash_mutant(
        "sinks in 16 bits",
        "sdpa",
        "A float32 parameter is read in the dtype of the queries.",
        Flash(sinks=lambda sinks, dtype, blocks: through(sinks, dtype)),
        tier="full",
    ),
)
